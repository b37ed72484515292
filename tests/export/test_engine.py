from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.runtime.engine import SEGMENTS, Engine, InvalidTensorsError, packs, read_rows

TEXT, QUERY, DOCUMENT = SEGMENTS


@given(st.lists(st.integers(1, 600)), st.integers(1, 512))
def test_packs_hold_every_row_once_within_the_budget(costs: list[int], budget: int) -> None:
    cut = list(packs(costs, budget))
    assert sorted(row for pack in cut for row in pack) == list(range(len(costs)))
    assert all(len(pack) == 1 or sum(costs[row] for row in pack) <= budget for pack in cut)


@given(st.lists(st.integers(1, 600)), st.integers(1, 512))
def test_packs_hold_rows_of_similar_cost(costs: list[int], budget: int) -> None:
    in_order = [costs[row] for pack in packs(costs, budget) for row in pack]
    assert in_order == sorted(costs)


def tensors(ids: list[list[int]], lengths: list[int]) -> dict[str, NDArray[np.generic]]:
    return {"input_ids": np.array(ids, np.int64), "length": np.array(lengths, np.int32)[:, None]}


def test_rows_are_read_without_their_padding() -> None:
    rows = read_rows(tensors([[5, 6, 7], [8, 0, 0]], [3, 1]), [TEXT], max_tokens=10, vocabulary_size=100)
    assert [ids.tolist() for (ids,) in rows] == [[5, 6, 7], [8]]


def test_padding_may_hold_anything() -> None:
    ((ids,),) = read_rows(tensors([[5, -1, 999]], [1]), [TEXT], max_tokens=10, vocabulary_size=100)
    assert ids.tolist() == [5]


@pytest.mark.parametrize(
    ("ids", "lengths", "message"),
    [
        ([[5, 6]], [0], "length must be in 1..2"),
        ([[5, 6]], [3], "length must be in 1..2"),
        ([[5, 6, 7, 8]], [4], "length must be in 1..3"),
        ([[5, 100]], [2], "input_ids must be in 0..99"),
        ([[-1, 5]], [2], "input_ids must be in 0..99"),
        ([[5], [6]], [1], "as many rows"),
    ],
)
def test_malformed_tensors_are_refused(ids: list[list[int]], lengths: list[int], message: str) -> None:
    with pytest.raises(InvalidTensorsError, match=message):
        read_rows(tensors(ids, lengths), [TEXT], max_tokens=3, vocabulary_size=100)


def test_segments_of_different_rows_are_refused() -> None:
    given: dict[str, NDArray[np.generic]] = {
        "query_ids": np.array([[5]], np.int64),
        "query_length": np.array([[1]], np.int32),
        "document_ids": np.array([[5], [6]], np.int64),
        "document_length": np.array([[1], [1]], np.int32),
    }
    with pytest.raises(InvalidTensorsError, match="as many rows"):
        read_rows(given, [QUERY, DOCUMENT], max_tokens=3, vocabulary_size=100)


def test_rows_together_equal_rows_alone_in_any_mix(repository: Path) -> None:
    engine = Engine(repository / "all-minilm-l6-v2" / "1" / "model.onnx")
    random = np.random.default_rng(7)
    for _ in range(5):
        lengths = np.clip(random.lognormal(3.5, 1, 40).astype(int), 3, 256)
        rows = [(random.integers(1000, 20000, length),) for length in lengths]
        together = engine.run(rows)
        alone = np.concatenate([engine.run([row]) for row in rows])
        cosines = (together * alone).sum(1) / np.linalg.norm(together, axis=1) / np.linalg.norm(alone, axis=1)
        assert cosines.min() >= 0.9999


def test_no_rows_give_no_results(repository: Path) -> None:
    assert Engine(repository / "all-minilm-l6-v2" / "1" / "model.onnx").run([]).shape == (0, 384)
