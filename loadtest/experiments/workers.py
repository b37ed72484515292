"""What several workers of the gateway do, in front of a model that takes no time.

All workers run on one core, and clients and Triton on the others: so they keep that core busy, however many they are,
and the CPU time of a request shows what sharing costs. Texts per second grow with the cores that there are.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

import msgspec
import numpy as np
import psutil
import uvloop
from rich.console import Console

from loadtest.experiments.overload import Overload, overload
from loadtest.tools import instant, machine
from loadtest.tools.load import load_with
from loadtest.tools.results import STORED, store
from loadtest.tools.servers import HOST, Server, conch, gateway
from loadtest.tools.steady import SETTINGS
from loadtest.tools.workloads import SEED, SHORT_WORDS, Workload, embedding, texts, workloads

RESULTS = STORED / "workers.json"
SCRATCH = Path(".workers")
"""Logs."""
WORKERS = (1, 2, 4)
CONNECTIONS = (8, 64)
TEXTS = 4096
CLIENTS, BATCH_CLIENTS = 32, 8
"""For each worker: the fewer wait for a process, the more often it sleeps and wakes up, which costs CPU time."""
BATCH = 64
OVERLOADED = (1, 4)
OVERLOAD_S = 15.0
FACTOR = 2.5
"""What is offered, by what the model can do: less than `make chaos` does, to leave cores to the workers."""
TOKENS_PER_SECOND = 4000

console = Console(highlight=False)


class Run(msgspec.Struct, frozen=True):
    """One measurement."""

    workers: int
    workload: str
    texts_per_request: int
    round: int
    requests_per_second: float
    cpu_ms: float
    """The gateway's CPU time of a request, over all of its processes."""


class Spread(msgspec.Struct, frozen=True):
    """Where connections ended up."""

    workers: int
    connections: int
    of_each: list[int]
    """Connections of each worker, ascending."""


class Results(msgspec.Struct, frozen=True):
    """All that was measured."""

    machine: dict[str, str | int | float]
    runs: list[Run]
    spreads: list[Spread]
    overloads: dict[int, Overload]
    """By workers, with a model of TOKENS_PER_SECOND."""
    rss_mib: dict[int, float]
    """The gateway's memory by its workers; pages that processes share are counted for each."""


def main() -> int:
    """Measure, store and print."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.experiments.workers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    SCRATCH.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        repository = instant.write(Path(folder) / "instant")
        first, *others = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, others or {first})
        with conch(repository, SCRATCH / "triton.log") as triton, ExitStack() as stack:
            os.sched_setaffinity(0, {first})
            gateways = {
                workers: stack.enter_context(
                    gateway(
                        repository,
                        SCRATCH / f"{workers}.log",
                        GATEWAY_WORKERS=str(workers),
                        GATEWAY_TRITON_URL=f"{HOST}:{triton.ports['TRITON_GRPC_PORT']}",
                    )
                )
                for workers in WORKERS
            }
            os.sched_setaffinity(0, others or {first})
            runs = measure(gateways, arguments.rounds, arguments.seconds)
            spreads = [spread(gateways[workers], workers, count) for workers in WORKERS[1:] for count in CONNECTIONS]
            rss = {workers: server.rss_mib()["gateway"] for workers, server in gateways.items()}
        os.sched_setaffinity(0, {first, *others})
        overloads = {}
        for workers in OVERLOADED:
            slow = instant.write(Path(folder) / f"paced {workers}", TOKENS_PER_SECOND)
            with conch(slow, SCRATCH / "overload.log", GATEWAY_WORKERS=str(workers), **SETTINGS) as server:
                load = overload(server, workloads()["mixed-16"], OVERLOAD_S, FACTOR)
                overloads[workers] = uvloop.run(load)
    for run in runs:
        console.print(
            f"{run.workers} workers, {run.workload:32} {run.requests_per_second:8.0f} requests/s {run.cpu_ms:7.3f} ms"
        )
    for one in spreads:
        console.print(f"{one.workers} workers, {one.connections} connections: {one.of_each}")
    store(Results(machine.describe(), runs, spreads, overloads, rss), arguments.out)
    return 0


def loads() -> Sequence[Workload]:
    """Single texts, and many in a request."""
    given = texts(np.random.default_rng(SEED), np.full(TEXTS, SHORT_WORDS))
    return (
        embedding(f"a text of {SHORT_WORDS} words", CLIENTS, given, 1),
        embedding(f"{BATCH} texts of {SHORT_WORDS} words", BATCH_CLIENTS, given, BATCH),
    )


def measure(gateways: Mapping[int, Server], rounds: int, seconds: float) -> list[Run]:
    """Each workload in turns, so that a slow minute of the machine affects all."""
    runs = []
    for number in range(rounds):
        for workload in loads():
            for workers, server in gateways.items():
                answers, cpu_s = load_with(server, workload, workers * workload.clients, seconds)
                cpu_ms = 1000 * cpu_s["gateway"] / len(answers.latencies_ms)
                runs.append(Run(workers, workload.name, workload.items, number, answers.per_second, cpu_ms))
    return runs


def spread(server: Server, workers: int, connections: int) -> Spread:
    """Open connections at the same time, and look which worker has how many."""
    load = Thread(target=load_with, args=(server, loads()[0], connections, 2.0))
    load.start()
    found: list[int] = []
    while load.is_alive() and sum(found) < connections:
        time.sleep(0.2)
        found = [of_process(process, server.port) for process in server.process.children()]
    load.join()
    return Spread(workers, connections, sorted(found))


def of_process(process: psutil.Process, port: int) -> int:
    """How many connections to a port a process has accepted."""
    return sum(
        one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port for one in process.net_connections("tcp")
    )


def median(runs: Sequence[Run], workers: int, workload: str) -> tuple[float, float]:
    """Requests per second, and milliseconds of CPU time per request."""
    own = [run for run in runs if (run.workers, run.workload) == (workers, workload)]
    return (
        statistics.median(run.requests_per_second for run in own),
        statistics.median(run.cpu_ms for run in own),
    )


if __name__ == "__main__":
    sys.exit(main())
