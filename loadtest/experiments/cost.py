"""The CPU time of the gateway per request and per text, in front of models that answer at once."""

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
import orjson
from rich.console import Console

from loadtest.tools import instant, machine
from loadtest.tools.load import load_with
from loadtest.tools.results import STORED, store
from loadtest.tools.servers import Server, conch
from loadtest.tools.workloads import (
    EMBEDDING_MODEL,
    RERANK_MODEL,
    SEED,
    SHORT_WORDS,
    TEXTS,
    Workload,
    made_up,
    mixed_lengths,
    texts,
)

RESULTS = STORED / "cost.json"
CLIENTS = 4
ITEMS = (1, 8, 64, 512)
"""Texts in a request."""
USUAL = 64
"""Texts, or documents, in a request of the other kinds."""
THIS, OTHER = "this", "other"

console = Console(highlight=False, width=120)


class Cost(msgspec.Struct, frozen=True, omit_defaults=True):
    """What requests of one kind cost the gateway."""

    kind: str
    """What is asked for."""
    items: int
    """Texts or documents in a request."""
    cpu_ms: float
    """CPU time per request: the median of the rounds."""
    other_ms: float | None = None
    """The same for the checkout that this one is compared with."""


class Results(msgspec.Struct, frozen=True):
    """All that was measured."""

    machine: dict[str, str | int | float]
    costs: list[Cost]


def main() -> int:
    """Measure, store and print."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.experiments.cost", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement")
    parser.add_argument(
        "--against", metavar="FOLDER", help="another checkout of Conch, measured in turns with this one"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    folders = {THIS: "."} | ({OTHER: arguments.against} if arguments.against else {})
    with tempfile.TemporaryDirectory(prefix="conch-") as scratch, ExitStack() as stack:
        repository = instant.write(Path(scratch) / "models")
        servers = [
            stack.enter_context(conch(repository, Path(scratch) / f"{name}.log", name=name, folder=folder))
            for name, folder in folders.items()
        ]
        costs = []
        for workload in workloads():
            costs.append(measure(workload, servers, arguments.rounds, arguments.seconds))
            console.print(_line(costs[-1]))
    store(Results(machine.describe(), costs), arguments.out)
    return 0


def workloads() -> list[Workload]:
    """Requests of each kind."""
    chance = np.random.default_rng(SEED)
    mixed = texts(chance, mixed_lengths(chance, TEXTS))
    unknown = made_up(chance, mixed_lengths(chance, TEXTS))
    return [
        *(_embed("texts", encoding, mixed, items) for items in ITEMS for encoding in ("float", "base64")),
        _embed("texts of made-up words", "base64", unknown, USUAL),
        _rerank(texts(chance, np.full(TEXTS // USUAL, SHORT_WORDS)), mixed),
    ]


def _embed(what: str, encoding: str, given: Sequence[str], items: int) -> Workload:
    fields = {"model": EMBEDDING_MODEL, "truncate": True, "encoding_format": encoding}
    return _workload(
        f"{what}, {encoding}", "/v1/embeddings", items, [fields | {"input": part} for part in _parts(given, items)]
    )


def _rerank(queries: Sequence[str], documents: Sequence[str]) -> Workload:
    fields = {"model": RERANK_MODEL, "return_documents": False}
    parts = zip(queries, _parts(documents, USUAL), strict=True)
    bodies = [fields | {"query": query, "documents": part} for query, part in parts]
    return _workload("documents to rerank", "/v1/rerank", USUAL, bodies)


def _parts(given: Sequence[str], items: int) -> list[Sequence[str]]:
    return [given[i : i + items] for i in range(0, len(given), items)]


def _workload(name: str, path: str, items: int, bodies: Sequence[Mapping[str, object]]) -> Workload:
    return Workload(name, path, CLIENTS, items, [orjson.dumps(body) for body in bodies], [])


def measure(workload: Workload, servers: Sequence[Server], rounds: int, seconds: float) -> Cost:
    """Measure the servers in turns."""
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for server in servers:
            answers, cpu_s = load_with(server, workload, workload.clients, seconds)
            found[server.name].append(1000 * cpu_s["gateway"] / len(answers.latencies_ms))
    medians = {name: statistics.median(values) for name, values in found.items()}
    return Cost(workload.name, workload.items, medians[THIS], medians.get(OTHER))


def _line(cost: Cost) -> str:
    line = (
        f"{cost.items:4} {cost.kind:30} {cost.cpu_ms:8.3f} ms per request {cost.cpu_ms / cost.items:8.4f} ms per item"
    )
    if cost.other_ms is not None:
        line += f"  other {cost.other_ms / cost.items:8.4f}  ratio {cost.cpu_ms / cost.other_ms:.2f}"
    return line


if __name__ == "__main__":
    sys.exit(main())
