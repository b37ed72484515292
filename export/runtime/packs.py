"""Which rows are computed together, and on which cores: each pack on one of them, or all packs on all.

Threads that share an execution wait for each other at every operator, most of all in small ones. So packs side by side,
a core each, are done sooner than one behind the other on all cores, unless one of them takes longer than all others
together. An engine measures both when it is loaded.

Entries of the python backend hold a copy of this file.
"""

from collections.abc import Sequence
from dataclasses import dataclass

PACK_TOKENS = 512
"""Tokens in one execution. On two AVX-512 cores 384 to 512 gave the most tokens/s; beyond that the activations outgrow
the caches."""
PACK_COST = 20
"""Fixed time of an execution, in tokens. This and the next are measured for all-MiniLM-L6-v2 in bf16 on two cores. For
larger models this one is lower and the next higher, but there it matters less where packs are cut."""
CELLS_PER_TOKEN = 900
"""Cells of attention (a token attending to a token or to padding) that take as long as the other work on a token."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The time of an execution: a part that is always the same, and one for each token of its work."""

    fixed: float
    """In any unit, as is the next."""
    per_token: float

    @classmethod
    def through(cls, small: tuple[float, float], large: tuple[float, float]) -> "Pace":
        """The pace of two executions, each its work and its time."""
        per_token = max(0.0, (large[1] - small[1]) / (large[0] - small[0]))
        return cls(max(0.0, small[1] - small[0] * per_token), per_token)

    def time(self, work: float) -> float:
        """How long an execution takes."""
        return self.fixed + self.per_token * work


@dataclass(frozen=True, slots=True)
class Paces:
    """The paces of one graph."""

    on_one: Pace
    """On one core, while the others compute as well."""
    on_all: Pace
    """On all cores together."""


TYPICAL = Paces(Pace(9, 1), Pace(11, 0.62))
"""Where nothing is measured: all-MiniLM-L6-v2 in bf16 on two cores, in the time of a token on one."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to compute some rows."""

    packs: list[list[int]]
    """The rows of each pack, by their places; the longest pack first, and together every row exactly once."""
    side_by_side: bool
    """Whether each takes one core, or all cores."""


def plan(costs: Sequence[int], cores: int, paces: Paces = TYPICAL) -> Plan:
    """Choose what takes the least time.

    Args:
        costs: tokens of each row.
        cores: packs that can be computed side by side.
        paces: how long that takes.
    """
    if not costs:
        return Plan([], side_by_side=False)
    share = sum(costs) / cores + max(costs) / 2  # so that there is a pack for every core
    beside = sorted(packs(costs, min(PACK_TOKENS, int(share))), key=lambda pack: work(pack, costs), reverse=True)
    busy = [0.0] * cores
    for pack in beside:
        busy[busy.index(min(busy))] += paces.on_one.time(work(pack, costs))
    if cores > 1 and paces.on_all.time(sum(costs)) >= max(busy):  # even if all rows were one pack
        return Plan(beside, side_by_side=True)
    together = packs(costs, PACK_TOKENS)[::-1]
    time = sum(paces.on_all.time(work(pack, costs)) for pack in together)
    return Plan(beside, side_by_side=True) if cores > 1 and time >= max(busy) else Plan(together, side_by_side=False)


def work(pack: Sequence[int], costs: Sequence[int]) -> float:
    """The work on a pack in tokens, with attention, where each row is as long as the longest."""
    own = [costs[row] for row in pack]
    return sum(own) + len(own) * max(own) ** 2 / CELLS_PER_TOKEN


def packs(costs: Sequence[int], budget: int) -> list[list[int]]:
    """Cut rows into packs of similar cost, each within the budget unless one row alone exceeds it.

    Of all ways to cut the rows in order of their cost, this takes the least time: few packs, and little padding in
    attention, where each row of a pack is as long as the longest.

    Args:
        costs: tokens of each row.
        budget: tokens a pack may hold.

    Returns:
        The indices of each pack's rows, packs of short ones first; together every row exactly once.
    """
    order = sorted(range(len(costs)), key=costs.__getitem__)
    best = [0.0]  # the least time for so many of the first rows
    cut = [0]  # and where the last pack begins then
    for end in range(1, len(order) + 1):
        longest = costs[order[end - 1]]
        choices: list[tuple[float, int]] = []
        tokens = 0
        for start in range(end - 1, -1, -1):
            tokens += costs[order[start]]
            if tokens > budget and choices:
                break
            # The tokens themselves take the same time however they are cut.
            choices.append((best[start] + PACK_COST + (end - start) * longest**2 / CELLS_PER_TOKEN, start))
        time, start = min(choices)
        best.append(time)
        cut.append(start)
    found = []
    end = len(order)
    while end:
        found.append(order[cut[end] : end])
        end = cut[end]
    return found[::-1]
