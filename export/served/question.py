"""What a gateway is asked, and what the library answers: made where the source is read, compared where it is not."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from export.plans.measures import Vectors


class Limits(msgspec.Struct, frozen=True):
    """What the gateway says of a model."""

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
    """What messages call each input."""
    width: int
    """Numbers of each answer: an embedding's dimensions, 1 for a score."""
    numbers: bytes
    """The library's answers, float32 [n, width]."""
    slope: float
    """What a tolerance of the tower's outputs becomes: less than 1 where an activation stands behind them."""

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
