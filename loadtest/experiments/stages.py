"""The CPU time of a request, by process and, in the gateway, by stage.

py-spy looks 200 times a second at what the gateway is doing; by that, its CPU time a request is shared out.
"""

import argparse
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from subprocess import run

import msgspec
from rich.console import Console

from loadtest.tools import machine, repository
from loadtest.tools.load import load_with
from loadtest.tools.results import STORED, store
from loadtest.tools.servers import Server, conch
from loadtest.tools.workloads import Workload, workloads

RESULTS = STORED / "stages.json"
SAMPLES_A_SECOND = 200
STAGES: Sequence[tuple[str, str]] = (
    ("tokenize", "gateway/text/"),
    ("gRPC", "tritonclient/"),
    ("gRPC", "/grpc/"),
    ("plan and pad", "gateway/service/text_batches.py"),
    ("plan and pad", "gateway/service/batches.py"),
    ("write the reply", "write ("),
    ("write the reply", "create ("),
    ("parse the body", "read ("),
    ("HTTP and event loop", "starlette/"),
    ("HTTP and event loop", "uvicorn/"),
)
"""The stages by marks in a stack of the gateway. The first mark found decides; frames are read innermost first."""
OTHER = "else"
IDLE = ("concurrent/futures/thread.py", "/threading.py")
"""Innermost frames of gateway threads that wait for work: py-spy does not always recognize them as idle."""

console = Console(highlight=False)


class Part(msgspec.Struct, frozen=True):
    """CPU time of a request."""

    process: str
    stage: str
    cpu_ms: float


class Results(msgspec.Struct, frozen=True):
    """All that was measured."""

    machine: dict[str, str | int | float]
    workload: str
    requests_per_second: float
    parts: list[Part]


def main() -> int:
    """Measure, store and print."""
    known = workloads()
    parser = argparse.ArgumentParser(prog="python -m loadtest.experiments.stages", description=__doc__)
    parser.add_argument("--workload", default="mixed-16", choices=list(known))
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    repository.prepare()
    workload = known[arguments.workload]
    with conch(repository.REPOSITORY, repository.REPOSITORY.with_name("conch.log")) as server:
        results = measure(server, workload, arguments.seconds)
    for part in results.parts:
        console.print(f"{part.process:8} {part.stage:20} {part.cpu_ms:8.3f} ms")
    store(results, arguments.out)
    return 0


def measure(server: Server, workload: Workload, seconds: float) -> Results:
    """First how much CPU time a request takes, then, with the samples' own load, on what."""
    answers, cpu_s = load_with(server, workload, workload.clients, seconds)
    requests = len(answers.latencies_ms)
    samples = _sample(server, workload, seconds)
    parts = [
        Part("gateway", name, 1000 * cpu_s["gateway"] * count / samples.total() / requests)
        for name, count in samples.most_common()
    ]
    parts += [Part(role, "all", 1000 * cpu_s[role] / requests) for role in ("model", "triton", "clients")]
    return Results(machine.describe(), workload.name, answers.per_second, parts)


def _sample(server: Server, workload: Workload, seconds: float) -> Counter[str]:
    """Samples of the gateway by stage."""
    (gateway,) = (process for process, role in server.roles() if role == "gateway")
    load = threading.Thread(target=load_with, args=(server, workload, workload.clients, seconds + 2))
    load.start()
    found: Counter[str] = Counter()
    with tempfile.NamedTemporaryFile() as file:
        command = [str(Path(sys.executable).with_name("py-spy")), "record", "--pid", str(gateway.pid)]
        command += ["--format", "raw", "--output", file.name, "--full-filenames"]
        command += ["--duration", f"{seconds:.0f}", "--rate", str(SAMPLES_A_SECOND)]
        run(command, check=True, capture_output=True)  # noqa: S603 - our own command
        for line in Path(file.name).read_text().splitlines():
            frames, _, count = line.rpartition(" ")
            stack = frames.split(";")
            if not any(mark in stack[-1] for mark in IDLE):
                found[stage(stack)] += int(count)
    load.join()
    return found


def stage(stack: Sequence[str]) -> str:
    """The stage of a stack, whose outermost frame is first."""
    for frame in reversed(stack):
        for name, mark in STAGES:
            if mark in frame:
                return name
    return OTHER


if __name__ == "__main__":
    sys.exit(main())
