"""How far outputs [N, width] are from the reference's. Read inside the serving image too: numpy only."""

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


def cosine_errors(expected: Vectors, actual: Vectors) -> Vectors:
    """1 - cosine, [N]."""
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(actual, axis=1)
    errors: Vectors = 1 - (expected * actual).sum(1) / norms
    return errors


def score_errors(expected: Vectors, actual: Vectors) -> Vectors:
    """The difference, in proportion where the reference is larger than 1: [N, width]."""
    errors: Vectors = np.abs(expected - actual) / np.maximum(1, np.abs(expected))
    return errors
