"""The proof: the finished graph, on what will serve it, against the reference.

The reference is the source model in float32, every row alone. The graph runs rows of many lengths alone, in threes and
all together, long ones with as many short ones as there is memory for. No entry is written whose numbers differ by more
than the tolerance.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from export.errors import ParityError
from export.manifest import ModelSpec, Precision
from export.measures import Vectors, cosine_errors, score_errors
from export.memory import PROOF_BYTES, Attention
from export.runners import Runner, runners
from export.runtime.engine import Row, Tokens
from export.tower import Tower

Batch = Sequence[int]
"""The rows that run together, by their places among all."""

ROUNDS = 3
"""How often all rows are run to see how fast they are; the best round counts."""
SPEED_S = 10.0
"""After which no further round begins: those of a long model take minutes."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far the outputs may be from the reference's, by the worst row and on average."""

    worst: float
    mean: float


@dataclass(frozen=True, slots=True)
class Measure:
    """How outputs [N, width] are held against the reference's."""

    name: str
    """Of what differs: the error of a cosine is 1 less it."""
    errors: Callable[[Vectors, Vectors], Vectors]
    tolerances: Mapping[Precision, Tolerance]


_COSINE = Measure(
    "cosine",
    cosine_errors,
    {
        "fp32": Tolerance(1e-4, 1e-4),
        "bf16": Tolerance(1e-4, 1e-4),
        "fp16": Tolerance(1e-3, 1e-3),
        "int8": Tolerance(2e-2, 5e-3),
    },
)
MEASURES: Mapping[str, Measure] = {
    "text-embedding": _COSINE,
    "image-embedding": _COSINE,
    # Means of cosines: all of a row's tokens have to be off for these to be.
    "late-interaction": Measure(
        "score",
        score_errors,
        {"fp32": Tolerance(1e-3, 1e-3), "bf16": Tolerance(1e-2, 1e-2), "fp16": Tolerance(2e-3, 2e-3)},
    ),
    # Logits: bf16 has 8 bits of mantissa, a step of 1/256. The sigmoid behind makes a quarter of the difference.
    "cross-encoder": Measure(
        "logit",
        score_errors,
        {"fp32": Tolerance(1e-3, 1e-3), "bf16": Tolerance(5e-2, 2e-2), "fp16": Tolerance(1e-2, 1e-2)},
    ),
}
"""By role."""


@dataclass(frozen=True, slots=True)
class Parity:
    """What one comparison found, and what it may find."""

    model: str
    """Its name in Triton."""
    precision: Precision
    batches: str
    measure: str
    worst: float
    mean: float
    tolerance: Tolerance

    @property
    def holds(self) -> bool:
        """Whether both are within the tolerance; NaN never is."""
        return self.worst <= self.tolerance.worst and self.mean <= self.tolerance.mean


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast all compared rows were together, on this machine."""

    model: str
    precision: Precision
    per_second: float
    unit: str
    """What is counted: "tokens" or "images"."""


def verify(spec: ModelSpec, tower: Tower, graph: Path) -> Iterator[Parity | Speed]:
    """Compare a graph with its reference on every engine setting that may serve it.

    Args:
        spec: says what will.
        tower: what the graph was traced from.
        graph: the file.

    Yields:
        Each comparison, one after the other, and at the end of each precision its speed: a precision takes seconds.

    Raises:
        ParityError: a comparison is beyond its tolerance.
    """
    rows = tower.samples()
    with torch.inference_mode():
        expected = np.stack([tower.reference(row).numpy() for row in rows])
    plans = _plans(Attention.of(spec, tower), [_longest(tower, row) for row in rows])
    seen: set[Precision] = set()
    for runner in runners(spec, tower.fields, graph):
        if runner.precision in seen:  # a processor without bf16 serves in fp32
            continue
        seen.add(runner.precision)
        for batches, plan in plans.items():
            started = time.perf_counter()
            actual = _run(runner, rows, plan)
            seconds = time.perf_counter() - started
            parity = _compare(tower, runner.precision, batches, expected, actual)
            if not parity.holds:
                raise ParityError(
                    f"verify {tower.name} in {parity.precision}, rows {batches}: {parity.measure} error"
                    f" {parity.worst:.2g} at worst and {parity.mean:.2g} on average, where"
                    f" {parity.tolerance.worst:g} and {parity.tolerance.mean:g} are the most"
                )
            yield parity
        yield _speed(tower, runner, rows, plan, seconds)  # of the last, all together


def _compare(tower: Tower, precision: Precision, batches: str, expected: Vectors, actual: Vectors) -> Parity:
    measure = MEASURES[tower.role.name]
    errors = np.maximum(measure.errors(expected, actual), 0)  # rounding can take a cosine above 1
    worst, mean = float(errors.max()), float(errors.mean())
    return Parity(tower.name, precision, batches, measure.name, worst, mean, measure.tolerances[precision])


def _longest(tower: Tower, row: Row) -> int:
    """Tokens of the longest text in a row; 0 in one of pixels."""
    return max(
        (len(value) for field, value in zip(tower.fields, row, strict=True) if isinstance(field, Tokens)), default=0
    )


def _plans(attention: Attention, lengths: Sequence[int]) -> Mapping[str, list[Batch]]:
    """How rows of these lengths are put into batches, by what to call it; each time all of them."""
    count = math.ceil(len(lengths) / 3)
    threes = [list(range(first, len(lengths), count)) for first in range(count)]  # so that short and long rows meet
    return {
        "alone": [[row] for row in range(len(lengths))],
        "in threes": [batch for three in threes for batch in cut(attention, three, lengths)],
        "together": cut(attention, range(len(lengths)), lengths),
    }


def cut(attention: Attention, rows: Sequence[int], lengths: Sequence[int]) -> list[Batch]:
    """Cut rows into batches whose scores there is memory for: the longest with the shortest, and so on.

    Args:
        attention: of the graph.
        rows: their places among `lengths`.
        lengths: tokens of every row.
    """
    left = deque(sorted(rows, key=lengths.__getitem__))
    batches: list[Batch] = []
    while left:
        longest = left.pop()
        most = attention.rows(lengths[longest], PROOF_BYTES) or len(rows)
        batches.append([longest, *(left.popleft() for _ in range(min(most - 1, len(left))))])
    return batches


def _run(runner: Runner, rows: Sequence[Row], batches: Sequence[Batch]) -> Vectors:
    outputs = np.concatenate([runner.run([rows[i] for i in batch]) for batch in batches])
    order = np.argsort([i for batch in batches for i in batch])
    return outputs[order]


def _speed(tower: Tower, runner: Runner, rows: Sequence[Row], batches: Sequence[Batch], first: float) -> Speed:
    """How fast these batches are, of which the first round, in seconds, is over."""
    tokens = sum(
        len(value) for row in rows for field, value in zip(tower.fields, row, strict=True) if isinstance(field, Tokens)
    )
    seconds = [first]
    while len(seconds) < ROUNDS and sum(seconds) < SPEED_S:
        seconds.append(_seconds(lambda: _run(runner, rows, batches)))
    unit = "tokens" if tokens else "images"
    return Speed(tower.name, runner.precision, (tokens or len(rows)) / min(seconds), unit)


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
