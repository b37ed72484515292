from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.runtime.execution import SCORES, Execution, cut

costs = st.lists(st.integers(0, 600), max_size=50)


@given(costs, st.integers(1, 1000), st.integers(1, 20))
def test_packs_hold_every_row_once_within_the_limits(costs: list[int], tokens: int, rows: int) -> None:
    packs = cut(costs, Execution(tokens, rows))
    assert sorted(index for pack in packs for index in pack) == list(range(len(costs)))
    for pack in packs:
        assert len(pack) == 1 or (sum(costs[i] for i in pack) <= tokens and len(pack) <= rows)


@given(costs, st.integers(1, 1000))
def test_packs_are_in_order_of_length_and_no_two_could_be_one(costs: list[int], tokens: int) -> None:
    packs = cut(costs, Execution(tokens))
    in_order = [costs[i] for pack in packs for i in pack]
    assert in_order == sorted(costs)
    for one, other in pairwise(packs):
        assert sum(costs[i] for i in one) + costs[other[0]] > tokens


def test_padded_rows_are_bounded_by_their_scores() -> None:
    heads, longest = 16, 4096
    assert [len(pack) for pack in cut([longest] * 3, Execution(1 << 30), heads)] == [SCORES // longest**2 // heads] * 3
    assert [len(pack) for pack in cut([longest] * 3, Execution(1 << 30))] == [3]
    assert [len(pack) for pack in cut([2 * longest] * 2, Execution(1 << 30), heads)] == [1, 1]


def test_limits_survive_their_file(tmp_path: Path) -> None:
    assert Execution.read(tmp_path) == Execution()
    found = Execution(4096, 128, 77)
    found.write(tmp_path)
    assert Execution.read(tmp_path) == found


@pytest.mark.parametrize(("free", "tokens"), [(1 << 30, 4096), (4 * 100 * 50, 50), (3, 1)])
def test_pack_takes_a_share_of_the_memory(free: int, tokens: int) -> None:
    assert Execution(4096, 128, 100).within(free) == Execution(tokens, 128, 100)
    assert Execution(4096, 128).within(free) == Execution(4096, 128)
