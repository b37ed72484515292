"""How cost grows: texts per second by batch, length and cores, the time of packs by threads, and memory.

Cores are taken away by CPU affinity, from clients and server alike. loadtest/tools/scaling.py is fitted to the times of
packs, which are measured on one thread, on several, and side by side.
"""

import argparse
import os
import shutil
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import openvino as ov

from export.runtime.contract import TEXT
from export.runtime.streams import hint
from loadtest.experiments import bench
from loadtest.tools import ceiling, machine
from loadtest.tools.benchmark import INT8, ONNX_RUNTIME, Run
from loadtest.tools.copies import copy
from loadtest.tools.growth import RESULTS, Results
from loadtest.tools.load import load_with
from loadtest.tools.repository import FOLDER, MAX_TOKENS, REPOSITORY
from loadtest.tools.results import store
from loadtest.tools.scaling import Pack
from loadtest.tools.servers import Server, conch
from loadtest.tools.workloads import EMBEDDING_MODEL, SEED, TEXTS, Workload, embedding, mixed_lengths, texts, workloads

BATCHES = (1, 4, 16, 64, 256)
"""Texts per request."""
BATCH_CLIENTS = 2
WORDS = (4, 8, 16, 32, 64, 128)
"""Per text."""
LENGTH_CLIENTS = 16
SPREAD = ("short-64", "mixed-16", "bulk-64")
"""Workloads that are measured by cores."""
CORES_A_WORKER = 4
"""A process of the gateway for so many cores: it takes less than a quarter of the CPU time of short texts."""
PACKS = tuple((rows, tokens) for tokens in (16, 64, 256) for rows in (1, 4, 16) if rows * tokens <= 1024)
"""Rows, and tokens of each."""
MODELS = (1, 2, 3, 4)
"""Copies of the embedding model."""


def main() -> int:
    """Measure, store and print."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.experiments.growth", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    peers = [name for name in bench.PEERS if name != ONNX_RUNTIME]
    parser.add_argument("--peers", nargs="*", default=peers, choices=peers)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    bench.prepare(arguments.peers)
    rounds, seconds = arguments.rounds, arguments.seconds
    batches, lengths = _by_batch(), _by_length()
    known = workloads()
    with bench.serving(arguments.peers) as servers:
        shown = [server for server in servers if server.name != INT8]
        by_batch = _turns(shown, batches, rounds, seconds)
        by_length = _turns(shown, lengths, rounds, seconds)
    results = Results(
        machine=machine.describe(),
        batches=by_batch,
        lengths=by_length,
        tokens={name: _mean_tokens(workload) for name, workload in lengths.items()},
        workloads={name: known[name].name for name in SPREAD},
        cores=_by_cores({name: known[name] for name in SPREAD}, rounds, seconds),
        packs=measure_packs(rounds, seconds / 8),
        models_mib={count: _memory_of_models(count, known["mixed-16"]) for count in MODELS},
        rows_mib=_memory_of_rows(batches, seconds),
    )
    store(results, arguments.out)
    return 0


def _by_batch() -> dict[str, Workload]:
    chance = np.random.default_rng(SEED)
    mixed = texts(chance, mixed_lengths(chance, TEXTS))
    return {f"batch-{items}": embedding(f"{items} texts", BATCH_CLIENTS, mixed, items) for items in BATCHES}


def _by_length() -> dict[str, Workload]:
    chance = np.random.default_rng(SEED)
    return {
        f"words-{words}": embedding(f"{words} words", LENGTH_CLIENTS, texts(chance, np.full(TEXTS, words)), 1)
        for words in WORDS
    }


def _mean_tokens(workload: Workload) -> float:
    given = [text for body in workload.texts for text in body]
    rows = ceiling.rows(REPOSITORY / EMBEDDING_MODEL, given, MAX_TOKENS)
    return statistics.mean(len(ids) for (ids,) in rows)


def _turns(servers: Sequence[Server], chosen: dict[str, Workload], rounds: int, seconds: float) -> list[Run]:
    runs = []
    for number in range(rounds):
        for name, workload in chosen.items():
            for server in servers:
                runs.append(bench.measure(server, name, workload, number, workload.clients, seconds))
                bench.console.print(bench.line(runs[-1]))
    return runs


def _by_cores(chosen: dict[str, Workload], rounds: int, seconds: float) -> dict[int, list[Run]]:
    """In turns: all servers run, and all except one are halted."""
    runs: dict[int, list[Run]] = defaultdict(list)
    with ExitStack() as stack:
        servers = {}
        for cores in doublings():
            with limited_to(cores):
                log = FOLDER / f"{cores}-cores.log"
                workers = str(max(1, cores // CORES_A_WORKER))
                starting = conch(REPOSITORY, log, (EMBEDDING_MODEL,), GATEWAY_WORKERS=workers)
                servers[cores] = stack.enter_context(starting)
                servers[cores].halt()
        for number in range(rounds):
            for cores, server in servers.items():
                with limited_to(cores):
                    for name, workload in chosen.items():
                        runs[cores].append(bench.measure(server, name, workload, number, workload.clients, seconds))
                        bench.console.print(f"{cores} cores: {bench.line(runs[cores][-1])}")
    return runs


def doublings() -> list[int]:
    """1, 2, 4 and so on, up to the cores of this machine."""
    return [2**i for i in range(len(os.sched_getaffinity(0)).bit_length())]


@contextmanager
def limited_to(cores: int) -> Iterator[None]:
    """Let this process, and those that it starts meanwhile, use the first cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure_packs(rounds: int, seconds: float) -> list[Pack]:
    """Packs on one thread, on more and more threads, and side by side: in turns, since machines have slow minutes."""
    settings = [(1, 1), *((streams, cores // streams) for cores in doublings()[1:] for streams in (1, cores))]
    compiled = {setting: Packs(*setting) for setting in settings}
    chance = np.random.default_rng(SEED)
    found = []
    for rows, tokens in PACKS:
        feed = TEXT.feed([chance.integers(1000, 30_000, tokens) for _ in range(rows)])
        times: dict[tuple[int, int], list[float]] = defaultdict(list)
        for _ in range(rounds):
            for setting, graph in compiled.items():
                times[setting].append(_median_ms(partial(graph.run, feed), seconds))
        for (streams, threads), values in times.items():
            found.append(Pack(rows, tokens, streams, threads, statistics.median(values)))
            bench.console.print(f"{rows} x {tokens}, {streams} streams of {threads} threads: {found[-1].ms:.2f} ms")
    return found


class Packs:
    """The embedding model's graph, compiled for packs side by side, with the settings of Conch's engine otherwise."""

    def __init__(self, streams: int, threads: int) -> None:
        core = ov.Core()
        settings = {
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams * threads,
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": hint(None, core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
        }
        compiled = core.compile_model(REPOSITORY / EMBEDDING_MODEL / "1" / "model.onnx", "CPU", settings)
        self._requests = [compiled.create_infer_request() for _ in range(streams)]

    def run(self, feed: dict[str, np.ndarray]) -> None:
        """Compute the same pack on each stream."""
        for request in self._requests:
            request.start_async(feed)
        for request in self._requests:
            request.wait()


def _median_ms(run: Callable[[], None], seconds: float) -> float:
    run()
    ended = time.perf_counter() + seconds
    found: list[float] = []
    while not found or time.perf_counter() < ended:
        started = time.perf_counter()
        run()
        found.append(1000 * (time.perf_counter() - started))
    return statistics.median(found)


def _memory_of_models(count: int, workload: Workload) -> dict[str, float]:
    """Conch's memory with copies of the embedding model, the first of which has had some work."""
    folder = FOLDER / "copies"
    shutil.rmtree(folder, ignore_errors=True)
    for number in range(count):
        copy(REPOSITORY / EMBEDDING_MODEL, folder / (f"{EMBEDDING_MODEL}-{number}" if number else EMBEDDING_MODEL))
    with conch(folder, FOLDER / "copies.log") as server:
        load_with(server, workload, workload.clients, seconds=1)
        found = server.rss_mib()
    bench.console.print(f"{count} models: {sum(found.values()):,.0f} MiB")
    shutil.rmtree(folder)
    return found


def _memory_of_rows(batches: dict[str, Workload], seconds: float) -> dict[int, dict[str, float]]:
    found = {}
    with conch(REPOSITORY, FOLDER / "rows.log") as server:
        for workload in batches.values():
            load_with(server, workload, workload.clients, seconds)
            found[workload.items] = server.rss_mib()
            bench.console.print(f"{workload.items} rows: {sum(found[workload.items].values()):,.0f} MiB")
    return found


if __name__ == "__main__":
    sys.exit(main())
