"""Activations that turn logits into scores. All arrays are [n, C], with one column per class."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Scores = NDArray[np.float64]
"""float64, so that scores close to 1 still differ."""


def none(logits: Logits) -> Scores:
    """Return the logits unchanged."""
    return logits.astype(np.float64)


def sigmoid(logits: Logits) -> Scores:
    """Map each logit to 0..1, without overflow."""
    scores: Scores = np.exp(-np.logaddexp(0, -logits.astype(np.float64)))
    return scores


def softmax(logits: Logits) -> Scores:
    """Map each row to probabilities that sum to 1, without overflow."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    scores: Scores = powers / powers.sum(axis=1, keepdims=True)
    return scores


ACTIVATIONS: Mapping[str, Callable[[Logits], Scores]] = {"none": none, "sigmoid": sigmoid, "softmax": softmax}
