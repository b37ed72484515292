"""`python -m loadtest.capacity`: how many replicas a load takes, from a stored benchmark.

A replica is a machine as the benchmark's, with a gateway and a Triton. What an execution costs is fitted to the
benchmark's runs: some time for each execution, each row and each token. Replicas are then tried in a simulated queue:
requests come at Poisson-distributed times, and whatever waits when an execution ends makes the next one, as Triton's
dynamic batching does; but for what came last, which the gateway, on the same cores, has not handed over by then.
"""

import argparse
import asyncio
import itertools
import sys
import time
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

from loadtest import bench, machine, page
from loadtest.client import BenchmarkError
from loadtest.overload import Connection, ask
from loadtest.servers import HOST, conch
from loadtest.workloads import EMBEDDING_MODEL, Workload, workloads

RESULTS = Path(__file__).parent / "results" / "capacity.json"
PAGE = Path("docs/operations.md")
SERVER = "conch"
MOST_ROWS = 24
"""In an execution, about, when a replica is full of small requests: the gateway keeps no more at Triton."""
SCATTERED = 1.15
"""What executions cost, of what they cost the benchmark, whose clients send their next requests together when an
execution has ended: the gateway takes more CPU time for requests that come alone. Chosen by `--check`'s first runs."""
TOGETHER = (8, 32)
"""Clients that make full use of a server and whose requests all fit into two executions."""
FULL = 0.95
"""Of its time, the most that a replica may be busy: over it, a queue grows without end."""
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
    """The share of an execution, while one runs, that passes until the gateway has handed a request over."""

    def of(self, rows: float, tokens: float) -> float:
        """An execution of so many."""
        return self.execution_s + self.row_s * rows + self.token_s * tokens


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

    def draw(self, chance: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Tokens of so many requests."""
        texts = chance.choice(self.lengths, (count, self.texts), p=self.shares)
        tokens: NDArray[np.int64] = texts.sum(1)
        return tokens


@dataclass(frozen=True, slots=True)
class Plan:
    """How many replicas, and what to expect of them."""

    replicas: int
    busy: float
    """The least share of its time that one works."""
    latency_s: dict[int, float]
    """By percentile."""


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

    Of clients that wait for answers, half would be in each execution if the gateway took no time, so that each request
    took two executions. By Little's law it takes clients / rows of them; what is over two is the handing over.
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


def simulate(
    cost: Cost, arrivals: NDArray[np.float64], texts: int, tokens: NDArray[np.int64], most_rows: int = MOST_ROWS
) -> NDArray[np.float64]:
    """Latencies of requests at one replica, in seconds.

    What waits when an execution ends makes the next one, less what came last.

    Args:
        cost: of executions.
        arrivals: when requests come, ascending, in seconds.
        texts: in each.
        tokens: of each.
        most_rows: in an execution, unless one request has more.
    """
    ends = np.empty(len(arrivals))
    come, needed = arrivals.tolist(), tokens.tolist()
    now, took, first = 0.0, 0.0, 0
    while first < len(come):
        there = now - cost.handover * took if come[first] < now else come[first]
        now = max(now, come[first])
        last = first + 1
        while last < len(come) and come[last] <= there and (last + 1 - first) * texts <= most_rows:
            last += 1
        took = cost.of((last - first) * texts, sum(needed[first:last]))
        now += took
        ends[first:last] = now
        first = last
    return ends - arrivals


def expect(cost: Cost, demand: Demand, rate: float) -> dict[int, float]:
    """Latencies at one replica that gets so many of the demand's requests a second, by percentile, in seconds."""
    chance = np.random.default_rng(0)
    arrivals = chance.exponential(1 / rate, REQUESTS).cumsum()
    latencies = simulate(cost, arrivals, demand.texts, demand.draw(chance, REQUESTS))
    return {one: float(np.percentile(latencies, one)) for one in PERCENTILES}


def least_s(cost: Cost, demand: Demand) -> float:
    """What a request costs at least, in the largest executions."""
    tokens = float(demand.lengths @ demand.shares)
    return demand.texts * cost.of(MOST_ROWS, MOST_ROWS * tokens) / MOST_ROWS


def alone_s(cost: Cost, demand: Demand) -> float:
    """What a request of usual length takes where there is no other."""
    return cost.of(demand.texts, demand.texts * float(demand.lengths @ demand.shares))


def plan(cost: Cost, demand: Demand, within_s: float, percentile: int) -> Plan | None:
    """The fewest replicas that answer in time; None where none would, since one request alone takes longer.

    Args:
        cost: of executions.
        demand: of all clients together.
        within_s: the longest that an answer may take.
        percentile: of the answers, how many must be in time.
    """
    least = least_s(cost, demand)
    if expect(cost, demand, 1e-3 / least)[percentile] > within_s:
        return None
    fewest = max(1, int(np.ceil(demand.rate * least / FULL)))
    for replicas in range(fewest, MOST_REPLICAS):
        latency_s = expect(cost, demand, demand.rate / replicas)
        if latency_s[percentile] <= within_s:
            return Plan(replicas, demand.rate * least / replicas, latency_s)
    return None


def histogram(text: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Read `16:3,64:2,200:1`: lengths in tokens, and how many texts have each.

    Raises:
        ValueError: it is none.
    """
    pairs = [part.partition(":")[::2] for part in text.split(",")]
    lengths = np.array([int(length) for length, _ in pairs])
    weights = np.array([float(weight) for _, weight in pairs])
    if (lengths < 1).any() or (weights < 0).any() or not weights.sum():
        raise ValueError("lengths must be 1 or more, and their weights not negative, nor all 0")
    return lengths, weights / weights.sum()


def demand_of(workload: Workload) -> Demand:
    """What a workload of one text a request asks for once a second, by the served model's tokenizer."""
    tokenizer = Tokenizer.from_file(str(bench.REPOSITORY / EMBEDDING_MODEL / "tokenizer.json"))
    texts = [text for body in workload.texts for text in body]
    tokens = [min(len(one.ids), bench.MAX_TOKENS) for one in tokenizer.encode_batch(texts)]
    lengths, counts = np.unique(tokens, return_counts=True)
    return Demand(1, 1, lengths, counts / counts.sum())


async def send(port: int, workload: Workload, rate: float) -> dict[int, float]:
    """Send a workload at Poisson-distributed times for a while; latencies by percentile, in seconds."""
    chance, latencies, idle = np.random.default_rng(1), list[float](), list[Connection]()

    async def one(body: bytes) -> None:
        sent = time.perf_counter()
        connection = idle.pop() if idle else await asyncio.open_connection(HOST, port)
        status = await ask(connection, workload.path, body)
        idle.append(connection)
        if status != "200":
            raise BenchmarkError(f"{workload.name}: {status}")
        latencies.append(time.perf_counter() - sent)

    async with asyncio.TaskGroup() as group:
        started = due = time.perf_counter()
        for body in itertools.cycle(workload.bodies):
            if due > started + CHECK_S:
                break
            await asyncio.sleep(due - time.perf_counter())
            group.create_task(one(body))
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
            _in_ms(expect(cost, demands[name], rate)),
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
    """Answer; the exit code is 1 where no number of replicas would do."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.capacity", description=__doc__)
    parser.add_argument("--rate", type=_positive, default=100, help="requests a second; by default %(default)s")
    parser.add_argument("--texts", type=int, default=1, help="in a request; by default %(default)s")
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
    found = plan(cost, demand, arguments.within / 1000, arguments.percentile)
    if found is None:
        say(f"no number of replicas answers {arguments.percentile} % within {arguments.within:g} ms")
        return 1
    latencies = ", ".join(f"p{one} {1000 * seconds:.0f} ms" for one, seconds in found.latency_s.items())
    say(f"replicas: {found.replicas}, each of which computes {found.busy:.0%} of the time or more; {latencies}")
    enough = max(1, int(np.ceil(demand.rate * least_s(cost, demand) / FULL)))
    say(f"to do the work alone, however late, {enough}; one request alone takes {1000 * alone_s(cost, demand):.0f} ms")
    say("and one more, for when one is lost or replaced")
    return 0


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("must be over 0")
    return value


def _cost(text: str) -> Cost:
    execution_ms, row_ms, token_ms = map(float, text.split(":"))
    return Cost(execution_ms / 1000, row_ms / 1000, token_ms / 1000, handover=0)


if __name__ == "__main__":
    sys.exit(main())
