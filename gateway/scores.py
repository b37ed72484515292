"""What becomes of logits before they are sent as scores. All arrays are [n, C], a column for each class."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Scores = NDArray[np.float64]
"""In float64, where good scores near 1 still differ."""


def none(logits: Logits) -> Scores:
    """The logits themselves."""
    return logits.astype(np.float64)


def sigmoid(logits: Logits) -> Scores:
    """Each logit to 0..1 by itself; no logit overflows."""
    scores: Scores = np.exp(-np.logaddexp(0, -logits.astype(np.float64)))
    return scores


def softmax(logits: Logits) -> Scores:
    """The logits of a row to shares of 1; no logit overflows."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    scores: Scores = powers / powers.sum(axis=1, keepdims=True)
    return scores


ACTIVATIONS: Mapping[str, Callable[[Logits], Scores]] = {"none": none, "sigmoid": sigmoid, "softmax": softmax}
