"""`python -m loadtest.capacity`: how many replicas a load takes, from a stored benchmark.

A replica is a machine as the benchmark's, with a gateway and a Triton. What an execution costs is fitted to the
benchmark's runs: some time for each execution, each row and each token. Replicas are then tried in a simulated queue:
requests come at Poisson-distributed times, and whatever waits when an execution ends makes the next one, as Triton's
dynamic batching does, up to what the gateway and Triton put together; but for what came last, which misses it.
"""

import argparse
import asyncio
import itertools
import math
import sys
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from scipy.optimize import nnls
from tokenizers import Tokenizer

from export.config import MAX_BATCH_SIZE
from gateway.scheduling.admission import IN_FLIGHT_S, MIN_IN_FLIGHT_TOKENS
from loadtest import bench, machine, page
from loadtest.client import BenchmarkError
from loadtest.overload import Connection, ask
from loadtest.servers import HOST, conch
from loadtest.workloads import EMBEDDING_MODEL, Workload, workloads

RESULTS = Path(__file__).parent / "results" / "capacity.json"
PAGE = Path("docs/operations.md")
SERVER = "conch"
SCATTERED = 1.15
"""What executions cost, of what they cost the benchmark, whose clients send their next requests together when an
execution has ended: the gateway takes more CPU time for requests that come alone. Chosen by `--check`'s first runs."""
TOGETHER = (8, 32)
"""Clients that make full use of a server and whose requests all fit into two executions."""
FULL = 0.95
"""Of its time, the most that a replica may be busy: near to all of it, a queue grows without end."""
REQUESTS = 20_000
"""Simulated."""
MOST_REPLICAS = 10_000
CHECKED = ("short-16", "mixed-16", "documents-16")
CHECKED_SHARES = (0.25, 0.45, 0.65)
CHECK_ROUNDS = 3
CHECK_S = 15.0
PERCENTILES = (50, 95, 99)

console = Console(highlight=False)


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
        return max(MIN_IN_FLIGHT_TOKENS, IN_FLIGHT_S * rate) / 2


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


class Check(msgspec.Struct, frozen=True):
    """A load that was simulated and sent."""

    workload: str
    requests_a_second: float
    expected_ms: dict[int, float]
    measured_ms: dict[int, float]


class Results(msgspec.Struct, frozen=True):
    """All that was checked, and the costs that it was simulated with."""

    machine: dict[str, str | int | float]
    cost_ms: dict[str, float]
    checks: list[Check]


def fit(runs: Sequence[bench.Run]) -> Cost:
    """What an execution costs, by non-negative least squares of relative errors over runs that kept a server busy.

    Of clients that wait for answers, half would be in each execution if nothing took time but executions, so that each
    request took two of them. By Little's law it takes clients / rows of them. What is over two is the share of requests
    that miss an execution, and with it the time of replies and of the clients.
    """
    seen = [run for run in runs if run.server == SERVER and run.work.get("executions") and run.items == run.requests]
    rows = np.array([run.work["rows"] / run.work["executions"] for run in seen])
    tokens = np.array([run.work["tokens"] / run.work["executions"] for run in seen])
    took = rows * [run.seconds / run.items for run in seen]  # a row is a request
    per = np.stack([np.ones(len(seen)), rows, tokens], 1)
    costs, _ = nnls(per / took[:, None], np.ones(len(took)))
    least, most = TOGETHER
    over = [run.clients / row - 2 for run, row in zip(seen, rows, strict=True) if least <= run.clients <= most]
    execution_s, row_s, token_s = map(float, SCATTERED * costs)
    return Cost(execution_s, row_s, token_s, max(0.0, float(np.median(over))) if over else 0.0)


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


def histogram(text: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Read `16:3,64:2,200:1`: lengths in tokens, and how many texts have each.

    Raises:
        ValueError: it is none.
    """
    pairs = [part.partition(":")[::2] for part in text.split(",")]
    lengths = np.array([int(length) for length, _ in pairs])
    weights = np.array([float(weight) for _, weight in pairs])
    if (lengths < 1).any() or (weights < 0).any() or not 0 < weights.sum() < math.inf:
        raise ValueError("lengths must be 1 or more, and their weights finite, not negative, nor all 0")
    return lengths, weights / weights.sum()


def demand_of(workload: Workload) -> Demand:
    """What a workload of one text a request asks for once a second, by the served model's tokenizer."""
    tokenizer = Tokenizer.from_file(str(bench.REPOSITORY / EMBEDDING_MODEL / "tokenizer.json"))
    texts = [text for body in workload.texts for text in body]
    tokens = [min(len(one.ids), bench.MAX_TOKENS) for one in tokenizer.encode_batch(texts)]
    lengths, counts = np.unique(tokens, return_counts=True)
    return Demand(1, 1, lengths, counts / counts.sum())


async def send(port: int, workload: Workload, rate: float) -> dict[int, float]:
    """Send a workload at Poisson-distributed times for a while; latencies by percentile, in seconds.

    From when each is due: that the clients are late is waiting as well, for the cores that the server has too.
    """
    chance, latencies, idle = np.random.default_rng(1), list[float](), list[Connection]()

    async def one(body: bytes, due: float) -> None:
        connection = idle.pop() if idle else await asyncio.open_connection(HOST, port)
        status = await ask(connection, workload.path, body)
        idle.append(connection)
        if status != "200":
            raise BenchmarkError(f"{workload.name}: {status}")
        latencies.append(time.perf_counter() - due)

    async with asyncio.TaskGroup() as group:
        started = due = time.perf_counter()
        for body in itertools.cycle(workload.bodies):
            if due > started + CHECK_S:
                break
            await asyncio.sleep(due - time.perf_counter())
            group.create_task(one(body, due))
            due += chance.exponential(1 / rate)
    for _, writer in idle:
        writer.close()
    return {one: float(np.percentile(latencies, one)) for one in PERCENTILES}


def check(cost: Cost) -> list[Check]:
    """Send what was simulated to a real server, in rounds; what was measured is the median of them."""
    bench.prepare()
    known = workloads()
    demands = {name: demand_of(known[name]) for name in CHECKED}
    rates = [(name, share / least_s(cost, demands[name])) for name in CHECKED for share in CHECKED_SHARES]
    measured = defaultdict(list)
    with conch(bench.REPOSITORY, bench.REPOSITORY.with_name("capacity.log")) as server:
        asyncio.run(send(server.port, known[CHECKED[0]], 1 / least_s(cost, demands[CHECKED[0]]) / 4))  # warm
        for _ in range(CHECK_ROUNDS):
            for name, rate in rates:
                measured[name, rate].append(asyncio.run(send(server.port, known[name], rate)))
                console.print(f"{known[name].name}, {rate:.0f} requests/s: {_in_ms(measured[name, rate][-1])}")
    return [
        Check(
            known[name].name.split(",")[0],
            round(rate, 1),
            _in_ms(expect(cost, demands[name].draw(), rate)),
            _in_ms({one: median(latency_s[one] for latency_s in measured[name, rate]) for one in PERCENTILES}),
        )
        for name, rate in rates
    ]


def table(results: Results) -> str:
    """A row a load."""
    heads = [f"p{one}" for one in PERCENTILES]
    lines = [
        "| load | requests/s | " + " | ".join(f"{head} expected, measured" for head in heads) + " |",
        "|---|---|" + "---|" * len(heads),
    ]
    for check in results.checks:
        pairs = [f"{check.expected_ms[one]:.0f}, {check.measured_ms[one]:.0f} ms" for one in PERCENTILES]
        lines.append(f"| {check.workload} | {check.requests_a_second:.0f} | " + " | ".join(pairs) + " |")
    return "\n".join(lines) + "\n"


def _in_ms(latency_s: dict[int, float]) -> dict[int, float]:
    return {one: round(1000 * seconds, 1) for one, seconds in latency_s.items()}


def main(given: Sequence[str] | None = None) -> int:
    """Answer; the exit code is 1 where no number of replicas would do, or it is not looked for."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.capacity", description=__doc__)
    parser.add_argument("--rate", type=_positive, default=100, help="requests a second; by default %(default)s")
    parser.add_argument("--texts", type=_count, default=1, help="in a request; by default %(default)s")
    parser.add_argument("--lengths", default="16:6,64:3,200:1", help="tokens:weight,...; by default %(default)s")
    parser.add_argument(
        "--within", type=_positive, default=200, metavar="MS", help="in which answers must come; by default %(default)s"
    )
    parser.add_argument(
        "--percentile",
        type=int,
        default=95,
        choices=PERCENTILES,
        help="the share of answers, in percent, that must; by default %(default)s",
    )
    parser.add_argument(
        "--cost",
        type=_cost,
        metavar="A:R:B",
        help="milliseconds of an execution, and of each row and token in it, instead of what a benchmark's were",
    )
    parser.add_argument("--results", type=Path, default=bench.RESULTS, help="of `make bench`; by default %(default)s")
    parser.add_argument("--check", action="store_true", help="send what is simulated to a server here instead")
    arguments = parser.parse_args(given)
    if arguments.cost is None:
        results = msgspec.json.decode(arguments.results.read_bytes(), type=bench.Results)
        cost = fit([*results.runs, *results.sweep])
        source = f"{arguments.results}: {results.machine['cores']} cores of an {results.machine['cpu']} a replica"
    else:
        cost, source = arguments.cost, "--cost"
    told = {"execution": 1000 * cost.execution_s, "row": 1000 * cost.row_s, "token": 1000 * cost.token_s}
    cost_ms = {name: round(value, 4) for name, value in told.items()}
    if arguments.check:
        checks = check(cost)
        checked = Results(machine.describe(), cost_ms, checks)
        bench.store(checked, RESULTS)
        page.fill(PAGE, {"capacity": table(checked)})
        return 0
    try:
        demand = Demand(arguments.rate, arguments.texts, *histogram(arguments.lengths))
    except ValueError as exc:
        parser.error(f"--lengths {arguments.lengths}: {exc}")
    say = partial(console.print, soft_wrap=True)
    say(f"by {source}; milliseconds: {', '.join(f'{value:g} for each {name}' for name, value in cost_ms.items())}")
    try:
        found = plan(cost, demand, arguments.within / 1000, arguments.percentile)
    except TooManyError:
        say(f"more than {MOST_REPLICAS:,} replicas")
        return 1
    if found is None:
        say(f"no number of replicas answers {arguments.percentile} % within {arguments.within:g} ms")
        return 1
    latencies = ", ".join(f"p{one} {1000 * seconds:.0f} ms" for one, seconds in found.latency_s.items())
    say(f"replicas: {found.replicas}, each of which computes {found.busy:.0%} of the time or more; {latencies}")
    say(f"to do the work alone, however late, {fewest(cost, demand)}")
    say(f"one request alone takes {1000 * alone_s(cost, demand):.0f} ms")
    say("and one more, for when one is lost or replaced")
    return 0


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("must be over 0, and finite")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _cost(text: str) -> Cost:
    costs = [float(cost) / 1000 for cost in text.split(":")]
    if len(costs) != 3 or min(costs) < 0 or not 0 < sum(costs) < math.inf:
        raise argparse.ArgumentTypeError("must be three numbers, finite, not negative, nor all 0")
    execution_s, row_s, token_s = costs
    return Cost(execution_s, row_s, token_s, handover=0)


if __name__ == "__main__":
    sys.exit(main())
