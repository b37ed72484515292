"""Errors of outputs compared with the reference's, and their limits. Needs numpy only."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Values = Sequence[NDArray[np.generic]] | NDArray[np.generic]
"""A value for each row: [width], or [L, width] of its tokens."""

SPARSE = "sparse"
"""What is compared of the outputs `sparse_indices` and `sparse_weights`: [K, 2], index and weight."""


def compared(outputs: Mapping[str, Values]) -> dict[str, Values]:
    """Outputs as measures compare them: those that mean nothing alone are one."""
    found = dict(outputs)
    if "sparse_indices" in found:
        pairs = zip(found.pop("sparse_indices"), found.pop("sparse_weights"), strict=True)
        found[SPARSE] = [np.stack([indices, weights], 1).astype(np.float32) for indices, weights in pairs]
    return found


def cosine_errors(expected: Values, actual: Values) -> Vectors:
    """1 - cosine, [N]."""
    one, other = np.asarray(expected, np.float32), np.asarray(actual, np.float32)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    errors: Vectors = 1 - (one * other).sum(1) / norms
    return np.maximum(errors, 0)  # rounding can take a cosine above 1


def score_errors(expected: Values, actual: Values) -> Vectors:
    """The difference, relative where the reference is larger than 1: [N, width]."""
    one, other = np.asarray(expected, np.float32), np.asarray(actual, np.float32)
    errors: Vectors = np.abs(one - other) / np.maximum(1, np.abs(one))
    return errors


def token_errors(expected: Values, actual: Values) -> Vectors:
    """1 - cosine of each token of all rows; 1 where only one of both has a token, which is not a row of zeros."""
    return np.concatenate([_token_errors(one, other) for one, other in zip(expected, actual, strict=True)])


def _token_errors(expected: NDArray[np.generic], actual: NDArray[np.generic]) -> Vectors:
    length = max(len(expected), len(actual))
    one, other = (np.pad(rows.astype(np.float32), ((0, length - len(rows)), (0, 0))) for rows in (expected, actual))
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    errors: Vectors = 1 - (one * other).sum(1) / np.where(norms == 0, 1, norms)
    return np.maximum(errors, 0)[one.any(1) | other.any(1)]


def sparse_errors(expected: Values, actual: Values) -> Vectors:
    """The largest difference of a term's weights, relative to the largest weight of the reference: [N]."""
    return np.array([_sparse_error(one, other) for one, other in zip(expected, actual, strict=True)], np.float32)


def _sparse_error(expected: NDArray[np.generic], actual: NDArray[np.generic]) -> float:
    weights = np.zeros((2, int(max(pairs[:, 0].max(initial=0) for pairs in (expected, actual))) + 1), np.float32)
    for own, pairs in zip(weights, (expected, actual), strict=True):
        np.maximum.at(own, pairs[:, 0].astype(np.int64), pairs[:, 1])
    return float(np.abs(weights[0] - weights[1]).max() / (weights[0].max() or 1))


MEASURES: Mapping[str, Callable[[Values, Values], Vectors]] = {
    "cosine": cosine_errors,
    "logit": score_errors,
    "score": score_errors,
    "token cosine": token_errors,
    "weight": sparse_errors,
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


@dataclass(frozen=True, slots=True)
class Limit:
    """The measure and the tolerance of one output."""

    measure: str
    """One of MEASURES."""
    tolerance: Tolerance
