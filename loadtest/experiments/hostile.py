"""`make hostile`: what a neighbour notices while a client does its worst: stalls, waits, memory."""

import argparse
import asyncio
import base64
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import psutil
import uvloop
from PIL import Image
from rich.console import Console

from loadtest.tools import machine
from loadtest.tools.attacks import ANSWER_S, EMBEDDINGS, IMAGE_MODEL, MIB, Attack, Target, attacks
from loadtest.tools.client import read_status
from loadtest.tools.pictures import file
from loadtest.tools.results import STORED, store
from loadtest.tools.servers import HOST, REPOSITORY, Server, conch, role

RESULTS = STORED / "hostile.json"
SCRATCH = Path(".chaos")
ROUNDS = 5
ROUND_S = 2.5
AFTER_S = 0.5
"""Between the end of an attack and the next look."""
QUIET_S = 15.0
"""The longest to wait between attacks until nothing computes any more."""
HOSTILE, NEIGHBOUR = "hostile", "neighbour"
STEP_S = 0.01
"""Between two looks at the event loop."""
PAUSE_S = 0.05
"""Between a neighbour's requests of a kind."""
KINDS = ("text", "image", "url")

console = Console(highlight=False, width=200)


class Case(msgspec.Struct, frozen=True):
    """The effects of an attack on another client, the neighbour: medians over the rounds of the worst in each."""

    name: str
    stall_ms: float
    """An answer to /health/live, which needs only the event loop, less the time that its thread waited for a core: the
    attacker, the neighbour, decoders and models run on the same machine."""
    live_ms: float
    """An answer to /health/live, including that time."""
    text_ms: float
    """A neighbour's short text."""
    image_ms: float
    """A neighbour's small image."""
    url_ms: float
    """A neighbour's small image, by its URL."""
    memory: float | None
    """The largest growth of the gateway's memory, divided by the size of all bodies in flight."""
    still_s: float
    """The time until all computation started by the attack has ended."""
    statuses: dict[str, int]
    """Answers that the attack got."""
    failed: int
    """The neighbour's requests that were not answered with 200."""


class Results(msgspec.Struct, frozen=True):
    """All that was measured."""

    machine: dict[str, str | int | float]
    rounds: int
    cases: list[Case]


class Noticed(msgspec.Struct):
    """The worst of a round, in milliseconds."""

    stall_ms: float = 0.0
    live_ms: float = 0.0
    waits_ms: dict[str, float] = msgspec.field(default_factory=dict)
    failed: int = 0


def main() -> int:
    """Play all attacks, store and print."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.experiments.hostile", description=__doc__)
    parser.add_argument("--only", nargs="*", help="parts of attacks' names")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    SCRATCH.mkdir(exist_ok=True)
    chosen = [
        attack
        for attack in attacks()
        if not arguments.only or any(part in attack.name for part in arguments.only) or attack.name == "nothing"
    ]
    cases = uvloop.run(play(chosen, arguments.rounds))
    store(Results(machine.describe(), arguments.rounds, cases), arguments.out)
    return 0


async def play(chosen: list[Attack], rounds: int) -> list[Case]:
    """Attack a server of the default models in each of these ways."""
    async with pages() as ports:
        settings = {
            "GATEWAY_API_KEYS": f"{HOSTILE},{NEIGHBOUR}",
            "GATEWAY_IMAGE_URLS": "allowlist",
            "GATEWAY_IMAGE_URL_HOSTS": ",".join(f"{HOST}:{port}" for port in ports.values()),
        }
        with (
            conch(REPOSITORY, SCRATCH / "hostile.log", **settings) as server,
            ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as watcher,
        ):
            await asyncio.get_running_loop().run_in_executor(
                watcher, watch, server.port, gateway_of(server).pid, ports["good"], 1.0
            )
            return [await case(attack, server, ports, watcher, rounds) for attack in chosen]


async def case(
    attack: Attack, server: Server, ports: Mapping[str, int], watcher: ProcessPoolExecutor, rounds: int
) -> Case:
    """One attack, again and again."""
    body = attack.body()
    target = Target(server.port, HOSTILE, ports["silent"], ports["dripping"])
    size = len(body) * attack.connections
    gateway = gateway_of(server)
    noticed: list[Noticed] = []
    grown: list[float] = []
    still: list[float] = []
    loop = asyncio.get_running_loop()
    for _ in range(rounds):
        forget_peak(gateway)
        before = gateway.memory_info().rss
        watching = loop.run_in_executor(watcher, watch, server.port, gateway.pid, ports["good"], ROUND_S)
        attacking = asyncio.create_task(attack.run(target, body))
        noticed.append(await watching)
        attacking.cancel()
        with suppress(asyncio.CancelledError):
            await attacking
        grown.append(peak_bytes(gateway) - before)
        still.append(await quiet(server))
    waits = {kind: statistics.median(one.waits_ms[kind] for one in noticed) for kind in KINDS}
    result = Case(
        attack.name,
        stall_ms=statistics.median(one.stall_ms for one in noticed),
        live_ms=statistics.median(one.live_ms for one in noticed),
        text_ms=waits["text"],
        image_ms=waits["image"],
        url_ms=waits["url"],
        memory=statistics.median(grown) / size if attack.is_measured and size >= MIB else None,
        still_s=statistics.median(still),
        statuses=dict(target.statuses),
        failed=sum(one.failed for one in noticed),
    )
    console.print(msgspec.json.encode(result).decode(), soft_wrap=True)
    return result


def gateway_of(server: Server) -> psutil.Process:
    """Its gateway."""
    return next(process for process, role in server.roles() if role == "gateway")


def waited_ms(thread: int) -> float:
    """The time that a thread has waited for a core so far (Documentation/scheduler/sched-stats.rst in Linux)."""
    return int(Path(f"/proc/{thread}/task/{thread}/schedstat").read_text().split()[1]) / 1e6


def forget_peak(process: psutil.Process) -> None:
    """Reset the peak memory that the kernel records for a process (proc_pid_clear_refs(5))."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")


def peak_bytes(process: psutil.Process) -> int:
    """The most memory that a process has had."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


async def quiet(server: Server) -> float:
    """Seconds until gateway and decoders compute nothing any more."""
    began = time.monotonic()
    while time.monotonic() - began < QUIET_S:
        before = _computed(server)
        await asyncio.sleep(AFTER_S)
        if _computed(server) - before < 0.2 * AFTER_S:
            break
    return max(0.0, time.monotonic() - began - AFTER_S)


def _computed(server: Server) -> float:
    """CPU seconds of the gateway and its decoders."""
    total = 0.0
    for process in server.processes():
        with suppress(psutil.NoSuchProcess):
            if role(" ".join(process.cmdline()[:5])) in ("gateway", "decoder"):
                times = process.cpu_times()
                total += times.user + times.system
    return total


def watch(port: int, gateway: int, good_port: int, seconds: float) -> Noticed:
    """Measure as another client for some seconds, in a separate process. A request in flight is waited for."""
    return uvloop.run(_watch(port, gateway, good_port, seconds))


async def _watch(port: int, gateway: int, good_port: int, seconds: float) -> Noticed:
    noticed = Noticed()
    ended = time.perf_counter() + seconds

    async def look() -> None:
        while time.perf_counter() < ended:
            own, theirs = waited_ms(os.getpid()), waited_ms(gateway)
            _, took_ms = await ask(port, b"GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n")
            # Not the sum: both may have waited at once.
            for_a_core_ms = max(waited_ms(os.getpid()) - own, waited_ms(gateway) - theirs)
            noticed.stall_ms = max(noticed.stall_ms, took_ms - for_a_core_ms)
            noticed.live_ms = max(noticed.live_ms, took_ms)
            await asyncio.sleep(STEP_S)

    async def send(kind: str, request: bytes) -> None:
        while time.perf_counter() < ended:
            status, took_ms = await ask(port, request)
            noticed.waits_ms[kind] = max(noticed.waits_ms.get(kind, 0.0), took_ms)
            noticed.failed += status != "200"
            await asyncio.sleep(PAUSE_S)

    picture = base64.b64encode(png()).decode()
    requests = {
        "text": {"input": "a short text"},
        "image": {"model": IMAGE_MODEL, "input": [{"image": picture}]},
        "url": {"model": IMAGE_MODEL, "input": [{"image": f"http://{HOST}:{good_port}/a.png"}]},
    }
    async with asyncio.TaskGroup() as group:
        group.create_task(look())
        for kind in KINDS:
            group.create_task(send(kind, post(requests[kind])))
    return noticed


def post(body: object) -> bytes:
    """A neighbour's request."""
    content = json.dumps(body).encode()
    head = (
        f"POST {EMBEDDINGS} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {NEIGHBOUR}\r\ncontent-length: {len(content)}"
    )
    return head.encode() + b"\r\n\r\n" + content


async def ask(port: int, request: bytes) -> tuple[str, float]:
    """Status of the answer to a request over a connection of its own, and milliseconds from its connection on."""
    began = time.perf_counter()
    status = "none"
    with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_connection(HOST, port, limit=MIB)
            try:
                writer.write(request)
                status = await read_status(reader)
            finally:
                writer.close()
    return status, 1000 * (time.perf_counter() - began)


@asynccontextmanager
async def pages() -> AsyncIterator[Mapping[str, int]]:
    """Ports of web servers: a good one, one that is silent, one that sends a byte at a time."""
    picture = png()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\nconnection: close\r\ncontent-length: "

    async def good(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head + b"%d\r\n\r\n" % len(picture) + picture)
            await writer.drain()
        writer.close()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.read()
        writer.close()

    async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head.replace(b"content-length", b"transfer-encoding: chunked\r\nx-length") + b"1\r\n\r\n")
            while True:
                writer.write(b"1;" + b"a" * 64 + b"\r\na\r\n")
                await writer.drain()
                await asyncio.sleep(0.001)
        writer.close()

    servers = [await asyncio.start_server(handle, HOST, 0) for handle in (good, silent, dripping)]
    try:
        yield dict(
            zip(("good", "silent", "dripping"), (one.sockets[0].getsockname()[1] for one in servers), strict=True)
        )
    finally:
        for one in servers:
            one.close()


def png() -> bytes:
    """A small picture."""
    return file(Image.new("RGB", (100, 80), "teal"), "PNG")


if __name__ == "__main__":
    sys.exit(main())
