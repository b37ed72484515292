"""`make scale`: three Tritons behind one name, as pods behind a headless Service; one is killed, and another comes.

Needs root: it runs in a mount namespace of its own, in which /etc/hosts is a file that it may change.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console

from embedded.triton import LOOPBACK, Ports, Triton
from loadtest.tools import machine
from loadtest.tools.client import BenchmarkError
from loadtest.tools.results import STORED, store
from loadtest.tools.servers import HOST, REPOSITORY, counted, free_ports, gateway, wait_until_ready
from loadtest.tools.steady import SETTINGS, Tally, known, steadily
from loadtest.tools.workloads import EMBEDDING_MODEL

INSIDE = "--inside"
SCRATCH = Path(".chaos")
"""Logs."""
RESULTS = STORED / "scale.json"
NAME = "tritons"
HOSTS = Path("/etc/hosts")
PHASE_S = 10.0
NOTICE_S = 3.0
"""The time from the end of a pod to the removal of its address from the name: a few seconds in a cluster."""
START_S = 60.0
"""The longest that a Triton's start, or its first call, is waited for."""
LOOK_S = 0.05

console = Console(highlight=False)


class Phase(msgspec.Struct, frozen=True):
    """Some seconds of a steady load."""

    name: str
    shares: dict[str, float]
    """Shares of the calls, by the number of the Triton that answered them."""
    requests: int
    not_correct: int
    latest_ms: float
    """The longest that any answer took."""


class Results(msgspec.Struct, frozen=True):
    """All that was measured."""

    machine: dict[str, str | int | float]
    phases: list[Phase]
    pick_up_s: float
    """The time from a new address in the name to the first call there."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A Triton at an address of its own, and the ports of all."""

    number: int
    process: "subprocess.Popen[bytes]"
    ports: Ports

    def calls(self) -> float:
        """The number of calls that it has answered; each call of the load is one row."""
        return counted(self.ports.metrics, host=address(self.number))["rows"]


def address(number: int) -> str:
    """The address of a Triton; all of 127.0.0.0/8 is this machine."""
    return f"127.0.0.{10 + number}"


@contextmanager
def pod(number: int, ports: Ports, repository: Path) -> Iterator[Pod]:
    """Start a Triton, and wait until it is ready."""
    with tempfile.TemporaryDirectory(prefix="conch-") as scratch, (SCRATCH / f"triton-{number}.log").open("wb") as log:
        triton = Triton.prepare(repository, ports, Path(scratch))
        own = triton.shared_memory_prefix, f"{triton.shared_memory_prefix}{number}-"
        command = [
            option.replace(f"-address={LOOPBACK}", f"-address={address(number)}").replace(*own)
            for option in triton.command
        ]
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, env=triton.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        one = Pod(number, process, ports)
        try:
            ready = f"http://{address(number)}:{ports.http}/v2/health/ready"
            wait_until_ready(process, ready, Path(log.name), START_S)
            yield one
        finally:
            kill(one)
            process.wait()
            triton.clean_up()


def kill(one: Pod) -> None:
    """End it and its models, without a word."""
    with suppress(ProcessLookupError):
        os.killpg(one.process.pid, signal.SIGKILL)


def publish(numbers: Sequence[int], others: str) -> None:
    """Resolve the name to these Tritons. The file is written in place, since it is mounted."""
    HOSTS.write_text(others + "".join(f"{address(number)} {NAME}\n" for number in numbers))


def count(pods: Mapping[int, Pod]) -> dict[int, float]:
    """Calls that each has answered. Blocks, so in a thread: a pause of the load would be in its longest answer."""
    return {number: one.calls() for number, one in pods.items()}


async def phase(name: str, pods: Mapping[int, Pod], tally: Tally) -> Phase:
    """Look for some seconds at what the load does."""
    before = await asyncio.to_thread(count, pods)
    requests, correct, tally.latest_s = tally.counts.total(), tally.counts["correct"], 0.0
    await asyncio.sleep(PHASE_S)
    found, latest_s = tally.counts.total() - requests, tally.latest_s
    not_correct = found - (tally.counts["correct"] - correct)
    calls = {number: after - before[number] for number, after in (await asyncio.to_thread(count, pods)).items()}
    total = sum(calls.values()) or 1
    shares = {str(number): round(answered / total, 3) for number, answered in calls.items()}
    result = Phase(name, shares, found, not_correct, round(1000 * latest_s))
    console.print(f"{name:24} {result.requests:5} requests, {result.not_correct} not correct, {result.shares}")
    return result


def wait_for_call(one: Pod, before: float, within_s: float = START_S) -> None:
    """Wait until a Triton has answered more calls than that.

    Raises:
        BenchmarkError: it has not in time.
    """
    deadline = time.perf_counter() + within_s
    while one.calls() <= before:
        if time.perf_counter() > deadline:
            raise BenchmarkError(f"{address(one.number)} is in the name, and got no call in {within_s:g} s")
        time.sleep(LOOK_S)


async def rehearse(url: str, ports: Ports, repository: Path, pods: dict[int, Pod], others: str) -> Results:
    """Kill one, and add one."""
    tally, stop = Tally(), asyncio.Event()
    load = asyncio.create_task(steadily(url, await known(url), tally, stop))
    phases = [await phase("three", pods, tally)]

    async def notice() -> None:
        await asyncio.sleep(NOTICE_S)
        publish([1, 3], others)

    kill(pods.pop(2))
    noticing = asyncio.create_task(notice())
    phases.append(await phase("one of them killed", pods, tally))
    await noticing
    with ExitStack() as stack:
        fourth = await asyncio.to_thread(stack.enter_context, pod(4, ports, repository))
        pods[4], before = fourth, await asyncio.to_thread(fourth.calls)
        publish([1, 3, 4], others)
        published_at = time.perf_counter()
        await asyncio.to_thread(wait_for_call, fourth, before)
        pick_up_s = time.perf_counter() - published_at
        phases.append(await phase("a new one beside two", pods, tally))
        stop.set()
        await load
    console.print(f"picked up after {pick_up_s:.2f} s")
    return Results(machine.describe(), phases, round(pick_up_s, 2))


def main() -> int:
    """Rehearse and store."""
    if INSIDE not in sys.argv:
        unshare = str(shutil.which("unshare"))
        os.execv(unshare, [unshare, "--mount", sys.executable, "-m", "loadtest.experiments.scale", INSIDE])  # noqa: S606 - no shell
    SCRATCH.mkdir(exist_ok=True)
    others = HOSTS.read_text()
    ports = Ports(*free_ports(3))
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        hosts, repository = Path(scratch) / "hosts", Path(scratch) / "repository"
        hosts.touch(0o644)
        subprocess.run([str(shutil.which("mount")), "--bind", str(hosts), str(HOSTS)], check=True)  # noqa: S603
        shutil.copytree(REPOSITORY / EMBEDDING_MODEL, repository / EMBEDDING_MODEL)
        pods = {number: stack.enter_context(pod(number, ports, repository)) for number in (1, 2, 3)}
        publish(list(pods), others)
        settings = {**SETTINGS, "GATEWAY_TRITON_URL": f"dns:///{NAME}:{ports.grpc}"}
        front = stack.enter_context(gateway(repository, SCRATCH / "gateway.log", **settings))
        results = asyncio.run(rehearse(f"http://{HOST}:{front.port}", ports, repository, pods, others))
    store(results, RESULTS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
