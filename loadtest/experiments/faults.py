"""Faults of the processes behind and in front of the gateway, each caused under a steady load."""

import asyncio
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import httpx2
import psutil

from loadtest.tools.servers import ADMIN_KEY, HOST, REPOSITORY, Server, free_ports, gateway
from loadtest.tools.steady import GRACE_S, SETTINGS, TIMEOUT_S, Case, Known, console, play
from loadtest.tools.workloads import EMBEDDING_MODEL

BROKEN_S = 3.0
SLOW_MODEL = "slow"
SLOW_REQUESTS = 32
ENGINE = """

class Engine(Engine):
    def run(self, rows, *wanted):
        results = super().run(rows, *wanted)
        vectors = results["embedding"]
        return results | {{"embedding": {how}}}
"""
"""The code added to the engine of a faulty model."""


def pids(server: Server, role: str) -> list[int]:
    """Processes that do something."""
    return [process.pid for process, own in server.roles() if own == role]


def stub(server: Server) -> int:
    """The process of the model that is asked."""
    return next(
        process.pid
        for process, role in server.roles()
        if role == "model" and any(f"/{EMBEDDING_MODEL}/" in word for word in process.cmdline())
    )


def signal_to(server: Server, role: str, sign: signal.Signals) -> Callable[[], Awaitable[None]]:
    """A function that sends a signal to the processes of a role, or to the stub."""

    async def act() -> None:
        for pid in [stub(server)] if role == "stub" else pids(server, role):
            os.kill(pid, sign)

    return act


async def control(server: Server, verb: str) -> None:
    """Have Triton load or unload the model that is asked."""
    async with httpx2.AsyncClient(timeout=60) as client:
        url = f"http://{HOST}:{server.ports['TRITON_HTTP_PORT']}/v2/repository/models/{EMBEDDING_MODEL}/{verb}"
        (await client.post(url, headers={"admin-key": ADMIN_KEY})).raise_for_status()


async def faults(server: Server, repository: Path, what: Known, only: Sequence[str] | None) -> list[Case]:
    """All that can happen to one server."""
    url = f"http://{HOST}:{server.port}"

    async def reload() -> None:
        await control(server, "unload")
        await asyncio.sleep(1)
        await control(server, "load")

    async def roll() -> None:
        entry = repository / EMBEDDING_MODEL
        shutil.copytree(entry / "1", entry / "2")
        await control(server, "load")

    def go_wrong(how: str) -> Callable[[], Awaitable[None]]:
        async def act() -> None:
            new = repository / EMBEDDING_MODEL / "3"
            shutil.copytree(new.with_name("1"), new)
            with (new / "conch_runtime" / "engine.py").open("a") as engine:
                engine.write(ENGINE.format(how=how))
            await control(server, "load")
            await asyncio.sleep(BROKEN_S)
            shutil.rmtree(new)
            await control(server, "load")

        return act

    async def be_slow() -> None:
        """Have more asked of a model that takes seconds than it can do."""
        body = json.dumps({"input": "a", "model": SLOW_MODEL}).encode()
        async with httpx2.AsyncClient(base_url=url, timeout=TIMEOUT_S + GRACE_S) as client:
            answers = await asyncio.gather(*(client.post("/v1/embeddings", content=body) for _ in range(SLOW_REQUESTS)))
        console.print(f"{SLOW_MODEL:>34} {dict(Counter(answer.status_code for answer in answers))}")

    async def fill() -> None:
        with full("/dev/shm"):  # noqa: S108 - where the python backend's tensors are
            await asyncio.sleep(5)

    cases: Sequence[tuple[str, Callable[[], Awaitable[None]]]] = (
        ("nothing", _nothing),
        ("model's process killed", signal_to(server, "stub", signal.SIGKILL)),
        ("model's process stopped", signal_to(server, "stub", signal.SIGSTOP)),
        ("Triton killed", signal_to(server, "triton", signal.SIGKILL)),
        ("Triton stopped", signal_to(server, "triton", signal.SIGSTOP)),
        ("gateway killed", signal_to(server, "gateway", signal.SIGKILL)),
        ("gateway asked to stop", signal_to(server, "gateway", signal.SIGTERM)),
        ("model unloaded and loaded again", reload),
        ("new version of the model", roll),
        ("shared memory full for 5 s", fill),
        ("model returns NaN for 3 s", go_wrong("np.full_like(vectors, np.nan)")),
        ("model returns half a vector for 3 s", go_wrong("np.ascontiguousarray(vectors[:, ::2])")),
        ("another model takes 3 s per batch", be_slow),
    )
    return [await play(name, url, what, fault) for name, fault in cases if only is None or name in only]


async def workers(server: Server, what: Known, only: Sequence[str] | None) -> list[Case]:
    """What can happen to one of several workers of a gateway, for clients with retries and without."""
    url = f"http://{HOST}:{server.port}"

    def to_worker(sign: signal.Signals) -> Callable[[], Awaitable[None]]:
        async def act() -> None:
            os.kill(parent(server).children()[0].pid, sign)

        return act

    async def replace() -> None:
        old = parent(server).children()
        parent(server).send_signal(signal.SIGHUP)
        while any(process.is_running() for process in old):  # noqa: ASYNC110 - another process ends them
            await asyncio.sleep(0.1)

    async def stop() -> None:
        parent(server).terminate()

    cases = (
        ("one of four workers killed", to_worker(signal.SIGKILL)),
        ("one of four workers stopped", to_worker(signal.SIGSTOP)),
        ("four workers replaced one by one", replace),
        ("gateway of four workers asked to stop", stop),
    )
    found = []
    for name, fault in cases:
        if only is None or name in only:
            found.append(await play(name, url, what, fault))
            found.append(await play(f"{name}, clients retry", url, what, fault, retries=True))
    return found


def parent(server: Server) -> psutil.Process:
    """The process of a gateway that has started the workers."""
    gateways = {process.pid: process for process, role in server.roles() if role == "gateway"}
    return next(process for process in gateways.values() if process.ppid() not in gateways)


def add_slow_model(repository: Path) -> None:
    """The same model under another name, by default no one's, with a rest in every execution of a text of one word."""
    entry = repository / SLOW_MODEL
    shutil.copytree(repository / EMBEDDING_MODEL, entry)
    config = (entry / "config.pbtxt").read_text()
    for old, new in ((EMBEDDING_MODEL, SLOW_MODEL), ("text-embedding-3-small", "slower"), ('"true"', '"false"')):
        config = config.replace(old, new)
    (entry / "config.pbtxt").write_text(config)
    with (entry / "1" / "conch_runtime" / "engine.py").open("a") as engine:
        engine.write(
            ENGINE.format(how='__import__("time").sleep(3 if any(len(ids) == 3 for (ids,) in rows) else 0) or vectors')
        )


async def _nothing() -> None:
    pass


@contextmanager
def full(folder: str) -> Iterator[None]:
    """Leave no room on a file system in memory, by making it as small as what it holds."""
    size = os.statvfs(folder)
    used = (size.f_blocks - size.f_bavail) * size.f_frsize
    remount = ["mount", "-o", "remount", folder]
    subprocess.run([*remount[:2], f"remount,size={used}", folder], check=True)  # noqa: S603 - our own command
    try:
        yield
    finally:
        whole = f"remount,size={size.f_blocks * size.f_frsize}"
        subprocess.run([*remount[:2], whole, folder], check=True)  # noqa: S603 - our own command


class Proxy:
    """A TCP proxy in front of Triton, that can reset its connections."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._writers: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def serve(self, port: int) -> AsyncIterator[None]:
        """Pass on what comes in at a port."""
        server = await asyncio.start_server(self._connect, HOST, port)
        try:
            yield
        finally:
            self.reset()
            server.close()

    def reset(self) -> None:
        """Cut all connections with RST."""
        for writer in self._writers:
            with suppress(OSError):
                own = writer.get_extra_info("socket")
                own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self._writers.clear()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):  # cut off by either side, or by us
            back_reader, back_writer = await asyncio.open_connection(HOST, self.port)
            self._writers += [writer, back_writer]
            await asyncio.gather(_pipe(reader, back_writer), _pipe(back_reader, writer))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(2**16):
        writer.write(data)
        await writer.drain()
    writer.close()


async def replicas(first: Server, second: Server, what: Known, log: Path, only: Sequence[str] | None) -> list[Case]:
    """Two Tritons behind one gateway, and what is between them."""
    proxied = free_ports(1)[0]
    proxy = Proxy(first.ports["TRITON_GRPC_PORT"])
    found = []
    async with proxy.serve(proxied):
        first_alone, both = f"{HOST}:{proxied}", f"{HOST}:{proxied},{HOST}:{second.ports['TRITON_GRPC_PORT']}"

        async def reset() -> None:
            proxy.reset()

        for name, urls, fault in (
            ("connection to Triton reset", first_alone, reset),
            ("connection to one of two reset", both, reset),
            ("one of two replicas killed", both, signal_to(second, "triton", signal.SIGKILL)),
            ("one of two replicas stopped", both, signal_to(first, "triton", signal.SIGSTOP)),
        ):
            if only is not None and name not in only:
                continue
            with ExitStack() as stack:  # in a thread, since the proxy works here
                start = gateway(REPOSITORY, log, GATEWAY_TRITON_URL=urls, **SETTINGS)
                front = await asyncio.to_thread(stack.enter_context, start)
                found.append(await play(name, f"http://{HOST}:{front.port}", what, fault))
    return found
