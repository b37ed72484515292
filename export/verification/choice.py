"""What int8 gives in place of a more exact precision, and whether `precision = "auto"` takes it.

Both graphs run on the engine that serves them, on this processor: on texts that were not calibrated on, for what int8
changes in their ranking, and on batches of short and of mixed texts, in turns, for the speed.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from timeit import timeit

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from export.manifest import Precision
from export.plans.measures import Values
from export.runtime.contract import Row
from export.tower import Tower, Vocabulary
from export.verification import samples
from export.verification.runners import OpenVino

LEAST_RANKING = 0.995
"""Spearman's correlation of the cosines of all pairs. On STSb, all-MiniLM-L6-v2 with so much noise in its vectors loses
0.0004 of its correlation with human scores, and 0.0010 in the worst of 20 trials; int8 may cost 0.002."""
LEAST_SPEEDUP = 1.05
"""Less is worth no error, and two measurements differ by as much."""
SHORT = (16,) * 16
MIXED = (8, 16, 24, 40, 64, 100, 160, 256)
"""Tokens of the rows of a batch."""
MOST_ROUNDS = 15
LEAST_ROUNDS = 3
"""Rounds of all batches on both engines; after SPEED_S, only the least are made."""
SPEED_S = 10.0


@dataclass(frozen=True, slots=True)
class Trial:
    """What int8 gives in place of a more exact precision, on one processor."""

    exact: Precision
    """What the other graph computes in."""
    processor: str
    ranking: float
    """Spearman's correlation between the cosines of all pairs of texts in one and in the other."""
    speedups: Mapping[str, float]
    """The other's time by that of int8, for each kind of batch."""

    @property
    def keeps_ranking(self) -> bool:
        """Whether int8 is exact enough."""
        return self.ranking >= LEAST_RANKING  # which no NaN is

    @property
    def takes_int8(self) -> bool:
        """Whether int8 is exact enough and faster."""
        return self.keeps_ranking and min(self.speedups.values()) >= LEAST_SPEEDUP

    @property
    def reason(self) -> str:
        """Why int8 is taken, or why not."""
        if not self.keeps_ranking:
            return (
                f"int8 ranks texts otherwise than {self.exact}: their rank correlation is {self.ranking:.4f}, and has"
                f" to be {LEAST_RANKING}"
            )
        times = " and ".join(f"{speedup:.2f} times ({kind} texts)" for kind, speedup in self.speedups.items())
        if not self.takes_int8:
            return f"int8 is only {times} as fast as {self.exact}, and has to be {LEAST_SPEEDUP} times with each"
        return f"int8 is {times} as fast as {self.exact}, with a rank correlation of {self.ranking:.4f}"


def compare(tower: Tower, graph: Path, precision: Precision, quantized: Path) -> Trial:
    """Run both graphs of a tower of texts, in turns.

    Args:
        tower: the tower.
        graph: the graph of another precision than int8.
        precision: that one.
        quantized: the graph in int8.

    Raises:
        SourceError: the engine cannot compute what a graph asks for.
    """
    exact, int8 = OpenVino(graph, precision), OpenVino(quantized, "int8")
    assert tower.vocabulary is not None  # noqa: S101 - only towers of texts are quantized
    processor = str(ov.Core().get_property("CPU", "FULL_DEVICE_NAME")).strip()
    texts = samples.whole_rows(tower.vocabulary, samples.unseen())
    main = [tower.outputs[0].name]
    rankings = [cosines(one.run(texts, main)[main[0]]) for one in (exact, int8)]
    batches = {kind: _batch(tower.vocabulary, lengths) for kind, lengths in {"short": SHORT, "mixed": MIXED}.items()}
    return Trial(exact.precision, processor, spearman(*rankings), _speedups(exact, int8, batches, main))


def _batch(vocabulary: Vocabulary, lengths: Sequence[int]) -> list[Row]:
    most = vocabulary.max_tokens
    return [(samples.ids(vocabulary, i, min(length, most)),) for i, length in enumerate(lengths)]


def cosines(vectors: Values) -> NDArray[np.float32]:
    """Those of all pairs of vectors, 1-D."""
    stacked = np.stack([np.asarray(vector, np.float32) for vector in vectors])
    stacked /= np.linalg.norm(stacked, axis=1, keepdims=True)
    found: NDArray[np.float32] = (stacked @ stacked.T)[np.triu_indices(len(stacked), 1)]
    return found


def spearman(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Spearman's rank correlation of values that are all different."""
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return float("nan")
    return float(np.corrcoef(first.argsort().argsort(), second.argsort().argsort())[0, 1])


def _speedups(
    exact: OpenVino, int8: OpenVino, batches: Mapping[str, Sequence[Row]], wanted: Sequence[str]
) -> dict[str, float]:
    """The medians over rounds in which one runs right after the other, since machines are noisy."""

    def ratio(rows: Sequence[Row]) -> float:
        first, second = (timeit(partial(one.run, rows, wanted), number=1) for one in (exact, int8))
        return first / second

    for rows in batches.values():
        ratio(rows)  # kernels are compiled
    rounds: list[list[float]] = []
    started = time.perf_counter()
    while len(rounds) < LEAST_ROUNDS or (len(rounds) < MOST_ROUNDS and time.perf_counter() - started < SPEED_S):
        rounds.append([ratio(rows) for rows in batches.values()])
    return {kind: round(median(found), 3) for kind, found in zip(batches, zip(*rounds, strict=True), strict=True)}
