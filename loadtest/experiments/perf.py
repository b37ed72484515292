"""`make perf`: NVIDIA's perf_analyzer at Triton over gRPC, and at the gateway over HTTP, with the same texts."""

import argparse
import sys
import tempfile
from pathlib import Path

import msgspec

from export.runtime.contract import Row
from loadtest.tools import ceiling, machine, repository
from loadtest.tools.perf_analyzer import FOLDER, WHEEL, Analyzer, Perf
from loadtest.tools.results import STORED, store
from loadtest.tools.servers import conch
from loadtest.tools.workloads import EMBEDDING_MODEL, IMAGE_MODEL, RERANK_MODEL, Workload, workloads

RESULTS = STORED / "perf.json"
CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64)
SHARES = (0.25, 0.5, 0.75)
"""Shares of the highest request rate, sent at Poisson-distributed times."""
CLIENTS = 16


class Results(msgspec.Struct, frozen=True):
    """All that was measured."""

    machine: dict[str, str | int | float]
    runs: list[Perf]


def main() -> int:
    """Measure and store."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.experiments.perf", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of Triton and gateway in turns")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    repository.prepare()
    FOLDER.mkdir(exist_ok=True)
    with conch(repository.REPOSITORY, FOLDER / "conch.log") as server, tempfile.TemporaryDirectory() as scratch:
        analyzer = Analyzer(server, Path(scratch))
        for model in (EMBEDDING_MODEL, RERANK_MODEL, f"{IMAGE_MODEL}-image"):
            analyzer.command(model)
        runs = measure(analyzer, arguments.rounds)
    results = Results(machine.describe() | {"perf_analyzer": WHEEL.partition("==")[2]}, runs)
    store(results, arguments.out)
    return 0


def measure(analyzer: Analyzer, rounds: int) -> list[Perf]:
    """Closed loop over clients, open loop over rates, and Triton and gateway in turns."""
    known = workloads()
    mixed, documents = known["mixed-16"], known["documents-16"]
    rows = {name: _rows(known[name]) for name in ("mixed-16", "documents-16")}
    runs = []
    for clients in CONCURRENCIES:
        runs += analyzer.triton("mixed-16", rows["mixed-16"], _clients(clients))
    most = max(run.requests_per_second for run in runs)
    for share in SHARES:
        rate = ["--request-rate-range", f"{share * most:.0f}", "--request-distribution", "poisson"]
        runs += analyzer.triton("mixed-16", rows["mixed-16"], rate)
    for number in range(rounds):
        runs += analyzer.triton("documents-16", rows["documents-16"], _clients(CLIENTS), number)
        runs += analyzer.gateway("documents-16", documents, _clients(CLIENTS), number)
        runs += analyzer.gateway("mixed-16", mixed, _clients(CLIENTS), number)
        runs += analyzer.gateway("rerank", known["rerank"], _clients(known["rerank"].clients), number)
    return runs


def _clients(count: int) -> list[str]:
    return ["--concurrency-range", f"{count}"]


def _rows(workload: Workload) -> list[Row]:
    texts = [text for body in workload.texts for text in body]
    return ceiling.rows(repository.REPOSITORY / EMBEDDING_MODEL, texts, repository.MAX_TOKENS)


if __name__ == "__main__":
    sys.exit(main())
