"""Compares the finished graph, run as it will be served, with the reference.

The reference is the source model in float32, one row at a time. The graph runs rows of many lengths alone, in threes
and all together, long ones with as many short ones as there is memory for. No entry is written if its outputs differ by
more than the tolerance.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from export.errors import ParityError
from export.manifest import ModelSpec, Precision
from export.packing.memory import PROOF_BYTES, Attention
from export.plans.measures import MEASURES, Limit, Values, compared
from export.runtime.contract import Row, Tokens
from export.tower import Tower
from export.verification.runners import Runner, runners
from export.verification.tolerances import Parity, Speed, limits

Batch = Sequence[int]
"""The rows that run together, by their places among all."""

ROUNDS = 3
"""The number of timed rounds over all rows; the fastest counts."""
SPEED_S = 10.0
"""The time after which no further round begins: one round of a long model takes minutes."""


def verify(spec: ModelSpec, tower: Tower, graph: Path) -> Iterator[Parity | Speed]:
    """Compare a graph with its reference on every engine setting that may serve it.

    Args:
        spec: the model's table, which names the engine.
        tower: the tower that the graph was traced from.
        graph: the graph's file.

    Yields:
        Each comparison of an output, one after the other, and at the end of each precision its speed: a precision
        takes seconds.

    Raises:
        ParityError: a comparison is beyond its tolerance.
    """
    rows = tower.samples()
    with torch.inference_mode():
        expected = references(tower, rows)
    plans = _plans(Attention.of(spec, tower), [_longest(tower, row) for row in rows])
    seen: set[Precision] = set()
    for runner in runners(spec, tower, graph):
        if runner.precision in seen:  # a processor without bf16 serves in fp32
            continue
        seen.add(runner.precision)
        for batches, plan in plans.items():
            started = time.perf_counter()
            actual = _run(runner, rows, plan)
            seconds = time.perf_counter() - started
            for output, limit in limits(tower, runner.precision, spec.backend).items():
                parity = _compare(tower, runner.precision, batches, output, limit, expected[output], actual[output])
                if not parity.holds:
                    raise ParityError(
                        f"verify {tower.name} in {parity.precision}, rows {batches}: {output}: {parity.measure} error"
                        f" {parity.worst:.2g} (largest; limit {parity.tolerance.worst:g})"
                        f" and {parity.mean:.2g} (mean; limit {parity.tolerance.mean:g})"
                    )
                yield parity
        yield _speed(tower, runner, rows, plan, seconds)  # of the last batches: all rows together


def references(tower: Tower, rows: Sequence[Row]) -> dict[str, Values]:
    """The reference's outputs of all rows, as measures compare them."""
    found = [tower.reference(row) for row in rows]
    return compared({output.name: [one[output.name].numpy() for one in found] for output in tower.outputs})


def _compare(
    tower: Tower,
    precision: Precision,
    batches: str,
    output: str,
    limit: Limit,
    expected: Values,
    actual: Values,
) -> Parity:
    errors = MEASURES[limit.measure](expected, actual)
    worst, mean = float(errors.max(initial=0)), float(errors.mean()) if errors.size else 0.0
    return Parity(tower.name, precision, batches, output, limit.measure, worst, mean, limit.tolerance)


def _longest(tower: Tower, row: Row) -> int:
    """Tokens of the longest text in a row; 0 in one of pixels."""
    return max(
        (len(value) for field, value in zip(tower.fields, row, strict=True) if isinstance(field, Tokens)), default=0
    )


def _plans(attention: Attention, lengths: Sequence[int]) -> Mapping[str, list[Batch]]:
    """The ways to divide all rows into batches, by their name in messages."""
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
        attention: the graph's attention.
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


def _run(runner: Runner, rows: Sequence[Row], batches: Sequence[Batch]) -> dict[str, Values]:
    found = [compared(runner.run([rows[i] for i in batch])) for batch in batches]
    order = np.argsort([i for batch in batches for i in batch])
    outputs: dict[str, Values] = {}
    for name in found[0]:
        values = [value for one in found for value in one[name]]
        outputs[name] = [values[place] for place in order]
    return outputs


def _speed(tower: Tower, runner: Runner, rows: Sequence[Row], batches: Sequence[Batch], first: float) -> Speed:
    """The speed of these batches; `first` is the time of the first round in seconds."""
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
