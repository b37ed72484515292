"""Batches to compare on, without a model."""

import numpy as np
from numpy.typing import NDArray

from export.plans.gate import Case


def case(table: NDArray[np.float32], rows: int, tokens: int) -> Case:
    ids = np.random.default_rng(tokens).integers(0, len(table), (rows, tokens))
    length = np.full((rows, 1), tokens, np.int32)
    return Case({"input_ids": ids, "length": length}, {"embedding": table[ids].mean(1) * np.float32(tokens)})


def shaped(**shapes: tuple[int, ...]) -> Case:
    return Case(
        {name: np.zeros(shape, np.int64) for name, shape in shapes.items()}, {"embedding": np.ones((1, 2), np.float32)}
    )
