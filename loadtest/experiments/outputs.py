"""What the dense vectors of an entry like bge-m3 cost, next to a model that has only these.

Both have an encoder of the size of bge-m3 with random weights. The engines that serve compute the same texts in turns.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console

from export.manifest import Backend, ModelSpec, Precision
from export.pipeline import write_graph
from export.runtime.contract import EMBEDDING, QUERY, Row
from export.runtime.engine import HINTS, Engine
from export.runtime.torch_engine import Engine as TorchEngine
from export.tasks import m3, text_embedding
from loadtest.tools import machine, tiny
from loadtest.tools.results import STORED, store

RESULTS = STORED / "outputs.json"
WORKLOADS = ((16, 1), (16, 8), (128, 2))
"""Tokens of each text, and texts in an execution."""

console = Console(highlight=False)


class Ratio(msgspec.Struct, frozen=True):
    """The time of dense vectors from an entry with all outputs."""

    backend: Backend
    tokens: int
    """Of each text."""
    texts: int
    alone_ms: float
    """The median time of the model that has only dense vectors."""
    ratio: float
    """The median of the rounds; above 1, the entry with all outputs is slower."""


class Results(msgspec.Struct, frozen=True):
    """All that was measured."""

    machine: dict[str, str | int | float]
    layers: int
    width: int
    ratios: list[Ratio]


def main() -> int:
    """Measure, store and print."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.experiments.outputs", description=__doc__)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    ratios: list[Ratio] = []
    with tempfile.TemporaryDirectory(prefix="conch-") as scratch:
        source = tiny.write_m3(
            Path(scratch) / "source",
            hidden_size=arguments.width,
            intermediate_size=4 * arguments.width,
            num_attention_heads=arguments.width // 64,
            num_hidden_layers=arguments.layers,
            max_position_embeddings=514,
        )
        backends: tuple[Backend, ...] = ("python", "torch")
        for backend in backends:
            engines = _engines(backend, source, Path(scratch) / backend)
            for tokens, texts in WORKLOADS:
                ratios.append(_compare(backend, engines, tokens, texts, arguments.rounds))
                one = ratios[-1]
                console.print(
                    f"{backend:7} {texts:2} x {tokens:3} tokens {one.alone_ms:8.2f} ms  ratio {one.ratio:.3f}"
                )
    store(Results(machine.describe(), arguments.layers, arguments.width, ratios), arguments.out)
    return 0


def _engines(backend: Backend, source: Path, folder: Path) -> list[Engine | TorchEngine]:
    """The engines of the entry with all outputs and of the one with dense vectors."""
    precision: Precision = "bf16" if backend == "python" else "fp32"
    spec = ModelSpec(name="m", task="text-embedding", source=str(source), backend=backend, precision=precision)
    engines: list[Engine | TorchEngine] = []
    for name, load in (("all", m3.load), ("dense", text_embedding.load)):
        (tower,) = load(spec, source)
        graph = write_graph(spec, tower, folder / name, lambda _: None)
        engines.append(Engine(graph, HINTS["bf16"]) if backend == "python" else TorchEngine(graph))
    return engines


def _compare(backend: Backend, engines: Sequence[Engine | TorchEngine], tokens: int, texts: int, rounds: int) -> Ratio:
    given = [_rows(engine, tokens, texts) for engine in engines]
    times: list[tuple[float, float]] = []
    for number in range(-3, rounds):
        pair = [0.0, 0.0]
        for which in (0, 1) if number % 2 else (1, 0):
            began = time.perf_counter()
            engines[which].run(given[which], [EMBEDDING])
            pair[which] = time.perf_counter() - began
        if number >= 0:
            times.append((pair[0], pair[1]))
    alone = statistics.median(dense for _, dense in times)
    return Ratio(backend, tokens, texts, 1000 * alone, statistics.median(full / dense for full, dense in times))


def _rows(engine: Engine | TorchEngine, tokens: int, texts: int) -> list[Row]:
    """Texts of one length, in rows of the engine's fields: without a query where it takes one."""
    chance = np.random.default_rng(0)
    nothing = np.zeros(0, np.int64)
    return [
        tuple(nothing if field is QUERY else chance.integers(5, 100, tokens) for field in engine.fields)
        for _ in range(texts)
    ]


if __name__ == "__main__":
    raise SystemExit(main())
