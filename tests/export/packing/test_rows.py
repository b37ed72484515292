import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from export.packing.rows import Rows, from_ragged, from_rectangle

PADDING = 1
ANYTHING = st.sampled_from([-7, 0, 10**9])
"""What may stand behind a row: ids that no vocabulary has among them."""


@st.composite
def stored_rows(draw: st.DrawFn) -> list[tuple[list[int], list[int]]]:
    """Rows of ids, each with what its request padded it with."""
    rows = st.tuples(st.lists(st.integers(2, 99), min_size=1, max_size=9), st.lists(ANYTHING, max_size=5))
    return draw(st.lists(rows, min_size=1, max_size=5))


def lengths(rows: list[list[int]]) -> Tensor:
    return torch.tensor([[len(row)] for row in rows], dtype=torch.int32)


@given(stored_rows())
def test_rows_from_ragged_input_are_those_from_a_rectangle(stored: list[tuple[list[int], list[int]]]) -> None:
    rows = [ids for ids, _ in stored]
    flat = torch.tensor([id_ for ids, behind in stored for id_ in ids + behind])
    strides = torch.tensor([len(ids) + len(behind) for ids, behind in stored], dtype=torch.int32)
    width = max(map(len, rows))
    rectangle = torch.tensor([ids + [-7] * (width - len(ids)) for ids in rows])
    expected = np.array([ids + [PADDING] * (width - len(ids)) for ids in rows])
    for made in (
        from_ragged(flat, strides, lengths(rows), PADDING),
        from_rectangle(rectangle, lengths(rows), PADDING),
    ):
        assert made.ids.tolist() == expected.tolist()
        assert made.length.tolist() == made.visible.tolist() == [len(ids) for ids in rows]
        assert made.length.dtype == torch.int64


def test_rectangle_keeps_its_width_even_where_no_row_fills_it() -> None:
    # Its columns are dimensions of the graph, which TensorRT has to know without looking at lengths.
    rows = from_rectangle(torch.tensor([[5, 6, 7], [8, 9, 9]]), torch.tensor([[2], [1]]), PADDING)
    assert rows.ids.tolist() == [[5, 6, PADDING], [8, PADDING, PADDING]]
    assert rows.valid.tolist() == [[True, True, False], [True, False, False]]


def of(ids: list[list[int]], length: list[int], first_length: list[int] | None = None) -> Rows:
    first = None if first_length is None else torch.tensor(first_length)
    return Rows(torch.tensor(ids), torch.tensor(length), torch.tensor(length), first)


def test_second_segment_begins_behind_the_first() -> None:
    assert of([[5, 6, 7], [8, 9, 0]], [3, 2], [1, 2]).segments.tolist() == [[0, 1, 1], [0, 0, 1]]


def test_rows_without_a_first_segment_have_one() -> None:
    assert of([[5, 6, 7]], [3]).segments.tolist() == [[0, 0, 0]]


def test_expansion_fills_up_shorter_rows_and_leaves_longer_ones() -> None:
    rows = of([[5, 6, 7, 8], [9, 0, 0, 0]], [4, 1]).expanded(3, token=2, attended=True)
    assert [row[:n] for row, n in zip(rows.ids.tolist(), rows.length.tolist(), strict=True)] == [
        [5, 6, 7, 8],
        [9, 2, 2],
    ]


def test_expansion_widens_rows_that_are_all_shorter() -> None:
    assert of([[5, 6], [9, 0]], [2, 1]).expanded(4, token=3, attended=True).ids.tolist() == [[5, 6, 3, 3], [9, 3, 3, 3]]


def test_expansion_is_attended_to_only_where_asked_for() -> None:
    rows = of([[5, 6], [9, 0]], [2, 1])
    for attended, expected in ((True, [[True] * 3] * 2), (False, [[True, True, False], [True, False, False]])):
        expanded = rows.expanded(3, token=3, attended=attended)
        assert expanded.attended.tolist() == expected
        assert expanded.valid.all()


def test_expansion_keeps_segments() -> None:
    assert of([[5, 6], [9, 8]], [2, 2], [1, 2]).expanded(3, token=3, attended=True).segments.tolist() == [
        [0, 1, 1],
        [0, 0, 1],
    ]
