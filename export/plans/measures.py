"""Errors of outputs [N, width] compared with the reference's, and their limits. Needs numpy only."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


def cosine_errors(expected: Vectors, actual: Vectors) -> Vectors:
    """1 - cosine, [N]."""
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(actual, axis=1)
    errors: Vectors = 1 - (expected * actual).sum(1) / norms
    return np.maximum(errors, 0)  # rounding can take a cosine above 1


def score_errors(expected: Vectors, actual: Vectors) -> Vectors:
    """The difference, relative where the reference is larger than 1: [N, width]."""
    errors: Vectors = np.abs(expected - actual) / np.maximum(1, np.abs(expected))
    return errors


MEASURES: Mapping[str, Callable[[Vectors, Vectors], Vectors]] = {
    "cosine": cosine_errors,
    "logit": score_errors,
    "score": score_errors,
}
"""The errors that each measure compares, by the name of the measure."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The largest allowed errors of outputs: the worst of all and their mean."""

    worst: float
    mean: float

    def admits(self, worst: float, mean: float) -> bool:
        """Whether the largest error and the mean of all are within the tolerance; NaN never is."""
        return worst <= self.worst and mean <= self.mean
