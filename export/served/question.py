"""A request to a gateway with the library's answers. One process reads the source and makes it, another compares."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from export.plans.measures import Vectors
from export.runtime.contract import EMBEDDING, SCORE

MAIN: Mapping[str, str] = {"/v1/embeddings": EMBEDDING, "/v1/rerank": SCORE, "/classify": SCORE}
"""The output that a path answers with where no other is asked for."""


class Limits(msgspec.Struct, frozen=True):
    """The limits that the gateway reports for a model, and what its entries compute."""

    max_tokens: int
    dimensions: tuple[int, ...] = ()
    """Shorter sizes that its vectors may be cut to."""
    outputs: tuple[str, ...] = ()
    """The names of its outputs."""


class Question(msgspec.Struct, frozen=True):
    """One request, and what the library answers to each of its inputs, or each of their tokens. Goes through JSON."""

    tower: str
    """The Triton model whose precision counts."""
    path: str
    body: dict[str, Any]
    output: str
    """What the answers are: an output's name, or SPARSE."""
    shown: list[str]
    """The name of each answer in messages."""
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
    tower: str,
    path: str,
    body: Mapping[str, Any],
    shown: Sequence[str],
    expected: Vectors,
    slope: float = 1.0,
    output: str = "",
) -> Question:
    """A question whose answers, [n, width], are known; by default, they are what the path's models have first."""
    numbers = np.asarray(expected, np.float32)
    output = output or MAIN[path]
    return Question(tower, path, dict(body), output, list(shown), numbers.shape[1], numbers.tobytes(), slope)
