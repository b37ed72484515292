"""A replica as a simulated queue: what an execution costs, and how long requests wait for theirs.

Requests come at Poisson-distributed times, and whatever waits when an execution ends makes the next one, as Triton's
dynamic batching does, up to what the gateway and Triton put together; but for what came last, which misses it.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.scheduling.admission import max_in_flight

MAX_BATCH_SIZE = 64
"""Rows of an execution: that of the export."""
FULL = 0.95
"""Of its time, the most that a replica may be busy: near to all of it, a queue grows without end."""
REQUESTS = 20_000
"""Simulated."""
MOST_REPLICAS = 10_000
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class Cost:
    """What an execution costs a replica, the gateway's part included, in seconds."""

    execution_s: float
    row_s: float
    token_s: float
    handover: float
    """An empirical share: requests that come so late in an execution miss the next one."""

    def of(self, rows: int, tokens: float) -> float:
        """An execution of so many, or several: none has over MAX_BATCH_SIZE rows."""
        return self.execution_s * math.ceil(rows / MAX_BATCH_SIZE) + self.row_s * rows + self.token_s * tokens

    @property
    def most_tokens(self) -> float:
        """In an execution that has several requests: half of what the gateway lets be at Triton.

        The other half waits there meanwhile. The gateway measures a rate; here it is what tokens alone would allow, for
        executions that are so large cost little else.
        """
        rate = 1 / self.token_s if self.token_s else math.inf
        return max_in_flight(rate) / 2


@dataclass(frozen=True, slots=True)
class Demand:
    """What clients ask for."""

    rate: float
    """Requests a second."""
    texts: int
    """In a request."""
    lengths: NDArray[np.int64]
    """Tokens of texts, special ones included."""
    shares: NDArray[np.float64]
    """Of the texts that have each length; together 1."""

    @property
    def mean_tokens(self) -> float:
        """Of a request."""
        return self.texts * float(self.lengths @ self.shares)

    def draw(self) -> "Drawn":
        """Requests by chance, the same ones each time."""
        chance = np.random.default_rng(0)
        arrivals = chance.exponential(1, REQUESTS).cumsum()
        return Drawn(arrivals, self.texts, chance.multinomial(self.texts, self.shares, REQUESTS) @ self.lengths)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Requests that a demand could consist of."""

    arrivals: NDArray[np.float64]
    """When they come, ascending, where one a second does."""
    texts: int
    """In each."""
    tokens: NDArray[np.int64]
    """Of each."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How many replicas, and what to expect of them."""

    replicas: int
    busy: float
    """The least share of its time that one works."""
    latency_s: dict[int, float]
    """By percentile."""


class TooManyError(Exception):
    """It would take more than MOST_REPLICAS."""


def simulate(cost: Cost, arrivals: NDArray[np.float64], texts: int, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Latencies of requests at one replica, in seconds.

    What waits when an execution ends makes the next one, less what came in its last part. A request that is larger than
    an execution may be is alone.

    Args:
        cost: of executions.
        arrivals: when requests come, ascending, in seconds.
        texts: in each.
        tokens: of each.
    """
    ends = np.empty(len(arrivals))
    come, needed = arrivals.tolist(), tokens.tolist()
    most, most_tokens = max(1, MAX_BATCH_SIZE // texts), cost.most_tokens
    now, took, first = 0.0, 0.0, 0
    while first < len(come):
        there = now - cost.handover * took if come[first] < now else come[first]
        now = max(now, come[first])
        last, together = first + 1, needed[first]
        while last < min(len(come), first + most) and come[last] <= there and together + needed[last] <= most_tokens:
            together += needed[last]
            last += 1
        took = cost.of((last - first) * texts, together)
        now += took
        ends[first:last] = now
        first = last
    return ends - arrivals


def expect(cost: Cost, drawn: Drawn, rate: float) -> dict[int, float]:
    """Latencies at one replica that gets so many of these requests a second, by percentile, in seconds."""
    latencies = simulate(cost, drawn.arrivals / rate, drawn.texts, drawn.tokens)
    return {one: float(np.percentile(latencies, one)) for one in PERCENTILES}


def least_s(cost: Cost, demand: Demand) -> float:
    """What a request costs at least, in the largest executions."""
    most = min(MAX_BATCH_SIZE // demand.texts, cost.most_tokens / demand.mean_tokens)
    return alone_s(cost, demand) - cost.execution_s * (1 - 1 / max(1, most))


def alone_s(cost: Cost, demand: Demand) -> float:
    """What a request of usual length takes where there is no other."""
    return cost.of(demand.texts, demand.mean_tokens)


def fewest(cost: Cost, demand: Demand) -> int:
    """Replicas that do the work, however late."""
    return max(1, math.ceil(demand.rate * least_s(cost, demand) / FULL))


def plan(cost: Cost, demand: Demand, within_s: float, percentile: int) -> Plan | None:
    """The fewest replicas that answer in time; None where none would, since one request alone takes longer.

    Args:
        cost: of executions.
        demand: of all clients together.
        within_s: the longest that an answer may take.
        percentile: of the answers, how many must be in time.

    Raises:
        TooManyError: so many are not looked for.
    """
    least, drawn = least_s(cost, demand), demand.draw()
    if expect(cost, drawn, 1e-3 / least)[percentile] > within_s:
        return None

    def are_enough(replicas: int) -> bool:
        return expect(cost, drawn, demand.rate / replicas)[percentile] <= within_s

    low = high = fewest(cost, demand)
    while high <= MOST_REPLICAS and not are_enough(high):
        low, high = high + 1, 2 * high
    replicas = low + bisect_left(range(low, high), True, key=are_enough)
    if replicas > MOST_REPLICAS:
        raise TooManyError
    return Plan(replicas, demand.rate * least / replicas, expect(cost, drawn, demand.rate / replicas))
