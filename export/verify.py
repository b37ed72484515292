"""The proof: the finished graph, on the engine that will serve it, against the reference.

The reference is the source model in float32, every row alone. The graph runs rows of many lengths alone, in threes and
all together. No entry is written whose numbers differ by more than the tolerance.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.sentence_transformer.modules import Normalize
from torch.nn import functional

from export.errors import ParityError
from export.runtime.engine import Engine, Ids, Row
from export.tower import TextTower

SAMPLES = Path(__file__).with_name("samples.txt")
LENGTHS = (3, 4, 6, 9, 14, 22, 35, 56, 90, 145, 233, 377)
"""Tokens of the rows that are compared, as far as the model takes them; its limit is always one."""

COSINE = "cosine >="
ERROR = "error <="

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Parity:
    """What one comparison found, and what it may find."""

    precision: str
    """The engine's: "f32" or "bf16"."""
    batches: str
    measure: str
    """COSINE, which may not fall below the tolerance, or ERROR, which may not exceed it."""
    value: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the value is within the tolerance; NaN never is."""
        return self.value >= self.tolerance if self.measure == COSINE else self.value <= self.tolerance


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the outputs of one task are held against the reference's."""

    rows: Callable[[TextTower], list[Row]]
    reference: Callable[[TextTower, Row], torch.Tensor]
    """One row's output, [width]."""
    measure: str
    difference: Callable[[Vectors, Vectors], float]
    tolerance: Mapping[str, float]
    """By precision of the engine."""


def verify(task: str, tower: TextTower, graph: Path, precisions: Sequence[str | None]) -> Iterator[Parity]:
    """Compare a graph with its reference.

    Args:
        task: a key of `COMPARISONS`.
        tower: what the graph was traced from.
        graph: the ONNX file.
        precisions: of the engine; None is what it takes by itself when it serves.

    Yields:
        Each comparison, one after the other: a precision takes seconds.

    Raises:
        ParityError: a comparison is beyond its tolerance.
    """
    comparison = COMPARISONS[task]
    rows = comparison.rows(tower)
    with torch.inference_mode():
        expected = np.stack([comparison.reference(tower, row).numpy() for row in rows])
    seen: set[str] = set()
    for precision in precisions:
        engine = Engine(graph, precision)
        if engine.precision in seen:  # a processor without bf16 serves in f32
            continue
        seen.add(engine.precision)
        for batches, actual in _runs(engine, rows):
            value = comparison.difference(expected, actual)
            parity = Parity(
                engine.precision, batches, comparison.measure, value, comparison.tolerance[engine.precision]
            )
            if not parity.holds:
                raise ParityError(
                    f"{graph.name} in {parity.precision}, rows {batches}: measured {value:.6f}, where"
                    f" {parity.measure} {parity.tolerance:g} was due"
                )
            yield parity


def _runs(engine: Engine, rows: Sequence[Row]) -> Iterator[tuple[str, Vectors]]:
    for batches, size in (("alone", 1), ("in threes", 3), ("together", len(rows))):
        count = math.ceil(len(rows) / size)
        actual = np.empty((len(rows), engine.width), np.float32)
        for first in range(count):
            batch = list(range(first, len(rows), count))  # strided, so that short and long rows meet
            actual[batch] = engine.run([rows[i] for i in batch])
        yield batches, actual


def sample_ids(tower: TextTower, start: int, length: int) -> Ids:
    """A row of real text cut to `length` tokens, special tokens included."""
    texts = SAMPLES.read_text().splitlines()
    ids: list[int] = []
    while len(ids) < length:
        ids = tower.tokenizer.encode(" ".join(texts[start:] + texts[:start])).ids
        texts *= 2
    return np.array([*ids[: length - 1], ids[-1]], np.int64)


def _lengths(tower: TextTower) -> list[int]:
    return [*(length for length in LENGTHS if length < tower.max_tokens), tower.max_tokens]


def _single_rows(tower: TextTower) -> list[Row]:
    return [(sample_ids(tower, i, length),) for i, length in enumerate(_lengths(tower))]


def _pair_rows(tower: TextTower) -> list[Row]:
    """Every document length under short, medium and long queries; queries repeat, as they do in rerank."""
    lengths = _lengths(tower)
    queries = [sample_ids(tower, i, length) for i, length in enumerate((5, 12, tower.max_tokens // 2))]
    return [(query, sample_ids(tower, i + 3, length)) for query in queries for i, length in enumerate(lengths)]


def _pooled(tower: TextTower, row: Row) -> torch.Tensor:
    """The reference's vector before its normalisation, which is the gateway's."""
    features = {"input_ids": torch.from_numpy(row[0])[None], "attention_mask": torch.ones(1, len(row[0]))}
    for module in tower.reference:
        if not isinstance(module, Normalize):
            features = module(features)
    return features["sentence_embedding"][0]


def _mean_max_cosine(tower: TextTower, row: Row) -> torch.Tensor:
    query, document = (
        functional.normalize(tower.model(input_ids=torch.from_numpy(ids)[None]).last_hidden_state[0], dim=-1)
        for ids in row
    )
    return (query @ document.T).amax(1).mean()[None]


def _min_cosine(expected: Vectors, actual: Vectors) -> float:
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(actual, axis=1)
    return float(((expected * actual).sum(1) / norms).min())


def _max_error(expected: Vectors, actual: Vectors) -> float:
    return float(np.abs(expected - actual).max())


COMPARISONS: Mapping[str, Comparison] = {
    "text-embedding": Comparison(
        rows=_single_rows,
        reference=_pooled,
        measure=COSINE,
        difference=_min_cosine,
        tolerance={"f32": 0.9999, "bf16": 0.9999},
    ),
    "late-interaction": Comparison(
        rows=_pair_rows,
        reference=_mean_max_cosine,
        measure=ERROR,
        difference=_max_error,
        tolerance={"f32": 1e-3, "bf16": 1e-2},
    ),
}
