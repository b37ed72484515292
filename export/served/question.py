"""A request to a gateway with the library's answers. One process reads the source and makes it, another compares."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from export.plans.measures import Vectors


class Limits(msgspec.Struct, frozen=True):
    """The limits that the gateway reports for a model."""

    max_tokens: int
    dimensions: tuple[int, ...] = ()
    """Shorter sizes that its vectors may be cut to."""


class Question(msgspec.Struct, frozen=True):
    """One request, and what the library answers to each of its inputs. Goes through JSON."""

    tower: str
    """The Triton model whose precision counts."""
    path: str
    body: dict[str, Any]
    shown: list[str]
    """The name of each input in messages."""
    width: int
    """Numbers of each answer: an embedding's dimensions, 1 for a score."""
    numbers: bytes
    """The library's answers, float32 [n, width]."""
    slope: float
    """The factor on the tolerance of the tower's outputs; less than 1 if an activation follows them."""

    @property
    def expected(self) -> Vectors:
        """The library's answers, [n, width]."""
        return np.frombuffer(self.numbers, np.float32).reshape(-1, self.width)


def question(
    tower: str, path: str, body: Mapping[str, Any], shown: Sequence[str], expected: Vectors, slope: float = 1.0
) -> Question:
    """A question whose answers, [n, width], are known."""
    numbers = np.asarray(expected, np.float32)
    return Question(tower, path, dict(body), list(shown), numbers.shape[1], numbers.tobytes(), slope)
