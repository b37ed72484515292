import math
from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.runtime.packs import CELLS_PER_TOKEN, PACK_COST, PACK_TOKENS, Pace, Paces, Plan, packs, plan, work

HALF = Paces(on_one=Pace(0, 1), on_all=Pace(0, 0.5))
"""Two cores that never wait for each other."""
LOCKSTEP = Paces(on_one=Pace(10, 1), on_all=Pace(20, 0.7))
"""Two cores that do."""


@given(st.lists(st.integers(1, 600)), st.integers(1, 512))
def test_packs_hold_every_row_once_within_the_budget(costs: list[int], budget: int) -> None:
    cut = list(packs(costs, budget))
    assert sorted(row for pack in cut for row in pack) == list(range(len(costs)))
    assert all(len(pack) == 1 or sum(costs[row] for row in pack) <= budget for pack in cut)


@given(st.lists(st.integers(1, 600)), st.integers(1, 512))
def test_packs_hold_rows_of_similar_cost(costs: list[int], budget: int) -> None:
    in_order = [costs[row] for pack in packs(costs, budget) for row in pack]
    assert in_order == sorted(costs)


@given(st.lists(st.integers(1, 600)), st.integers(1, 512))
def test_attention_of_a_pack_is_bounded_by_its_tokens(costs: list[int], budget: int) -> None:
    # A pack could be cut behind any of its rows for PACK_COST: so those that are much shorter than its longest are few.
    for pack in packs(costs, budget):
        longest = max(costs[row] for row in pack)
        bound = 2 * PACK_COST * CELLS_PER_TOKEN + math.sqrt(2) * budget * longest
        assert len(pack) == 1 or len(pack) * longest**2 <= bound


def test_rows_of_a_length_share_a_pack_and_a_long_one_stays_alone() -> None:
    assert [sorted(pack) for pack in packs([20, 250, 20, 20], 512)] == [[0, 2, 3], [1]]


@given(st.lists(st.integers(1, 600), min_size=1, max_size=7), st.integers(1, 512))
def test_no_way_to_cut_takes_less_time(costs: list[int], budget: int) -> None:
    def time(cut: Iterable[Sequence[int]]) -> float:
        return sum(
            PACK_COST + sum(pack) + len(pack) * max(pack) ** 2 / CELLS_PER_TOKEN
            if len(pack) == 1 or sum(pack) <= budget
            else math.inf
            for pack in cut
        )

    ordered = sorted(costs)
    ways = (
        [ordered[start:end] for start, end in pairwise((0, *places, len(costs)))]
        for count in range(len(costs))
        for places in combinations(range(1, len(costs)), count)
    )
    found = time([[costs[row] for row in pack] for pack in packs(costs, budget)])
    assert math.isclose(found, min(map(time, ways)))


def time(chosen: Plan, costs: Sequence[int], cores: int, paces: Paces) -> float:
    works = [work(pack, costs) for pack in chosen.packs]
    if not chosen.side_by_side:
        return sum(map(paces.on_all.time, works))
    busy = [0.0] * cores
    for one in works:
        busy[busy.index(min(busy))] += paces.on_one.time(one)
    return max(busy)


@given(st.lists(st.integers(1, 600)), st.integers(1, 8))
def test_plan_has_every_row_once_and_the_longest_pack_first(costs: list[int], cores: int) -> None:
    chosen = plan(costs, cores, LOCKSTEP)
    assert sorted(row for pack in chosen.packs for row in pack) == list(range(len(costs)))
    works = [work(pack, costs) for pack in chosen.packs]
    assert chosen.side_by_side <= (works == sorted(works, reverse=True))
    assert all(len(pack) == 1 or sum(costs[row] for row in pack) <= PACK_TOKENS for pack in chosen.packs)


@given(st.lists(st.integers(1, 600), min_size=1), st.integers(2, 8))
def test_plan_takes_no_longer_than_all_cores_for_one_pack_after_the_other(costs: list[int], cores: int) -> None:
    together = Plan(packs(costs, PACK_TOKENS), side_by_side=False)
    chosen = plan(costs, cores, LOCKSTEP)
    assert time(chosen, costs, cores, LOCKSTEP) <= time(together, costs, cores, LOCKSTEP) * (1 + 1e-9)


def test_rows_of_a_length_are_divided_among_the_cores() -> None:
    chosen = plan([19] * 8, 2, LOCKSTEP)
    assert chosen.side_by_side
    assert [len(pack) for pack in chosen.packs] == [4, 4]


def test_lone_row_and_a_row_that_outweighs_all_others_take_all_cores() -> None:
    assert plan([100], 2, LOCKSTEP) == Plan([[0]], side_by_side=False)
    assert plan([16, 256, 16], 2, LOCKSTEP) == Plan([[1], [0, 2]], side_by_side=False)


def test_row_so_small_that_threads_only_wait_takes_one_core() -> None:
    assert plan([4], 2, LOCKSTEP).side_by_side


def test_one_core_has_nothing_beside_it() -> None:
    assert plan([300, 20, 20], 1, HALF) == Plan([[0], [1, 2]], side_by_side=False)
    assert plan([], 4) == Plan([], side_by_side=False)


def test_pace_goes_through_both_measurements() -> None:
    pace = Pace.through((16, 1.3), (64, 3.9))
    assert math.isclose(pace.time(16), 1.3)
    assert math.isclose(pace.time(64), 3.9)


@pytest.mark.parametrize(("small", "large"), [(2.0, 1.0), (1.0, 9.0)])
def test_pace_of_a_disturbed_measurement_is_never_negative(small: float, large: float) -> None:
    pace = Pace.through((16, small), (64, large))
    assert min(pace.fixed, pace.per_token) >= 0
