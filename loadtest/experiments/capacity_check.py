"""`python -m loadtest.experiments.capacity --check`: sends to a real server what is simulated, and stores both."""

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Mapping
from statistics import median

import msgspec
import numpy as np
from tokenizers import Tokenizer

from loadtest.tools import machine, repository
from loadtest.tools.client import BenchmarkError, Connection, ask
from loadtest.tools.queueing import PERCENTILES, Cost, Demand, expect, least_s
from loadtest.tools.results import STORED, store
from loadtest.tools.servers import HOST, conch
from loadtest.tools.workloads import EMBEDDING_MODEL, Workload, workloads

RESULTS = STORED / "capacity.json"
CHECKED = ("short-16", "mixed-16", "documents-16")
CHECKED_SHARES = (0.25, 0.45, 0.65)
CHECK_ROUNDS = 3
CHECK_S = 15.0


class Check(msgspec.Struct, frozen=True):
    """A load that was simulated and sent."""

    workload: str
    requests_per_second: float
    expected_ms: dict[int, float]
    measured_ms: dict[int, float]


class Results(msgspec.Struct, frozen=True):
    """All that was checked, and the costs that it was simulated with."""

    machine: dict[str, str | int | float]
    cost_ms: dict[str, float]
    checks: list[Check]


def run(cost: Cost, cost_ms: Mapping[str, float]) -> None:
    """Check, store and print."""
    store(Results(machine.describe(), dict(cost_ms), check(cost)), RESULTS)


def demand_of(workload: Workload) -> Demand:
    """The demand of a workload with one text per request, at one request a second, by the served model's tokenizer."""
    tokenizer = Tokenizer.from_file(str(repository.REPOSITORY / EMBEDDING_MODEL / "tokenizer.json"))
    texts = [text for body in workload.texts for text in body]
    tokens = [min(len(one.ids), repository.MAX_TOKENS) for one in tokenizer.encode_batch(texts)]
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
    repository.prepare()
    known = workloads()
    demands = {name: demand_of(known[name]) for name in CHECKED}
    rates = [(name, share / least_s(cost, demands[name])) for name in CHECKED for share in CHECKED_SHARES]
    measured = defaultdict(list)
    with conch(repository.REPOSITORY, repository.REPOSITORY.with_name("capacity.log")) as server:
        asyncio.run(send(server.port, known[CHECKED[0]], 1 / least_s(cost, demands[CHECKED[0]]) / 4))  # warm
        for _ in range(CHECK_ROUNDS):
            for name, rate in rates:
                measured[name, rate].append(asyncio.run(send(server.port, known[name], rate)))
                print(f"{known[name].name}, {rate:.0f} requests/s: {_in_ms(measured[name, rate][-1])}")
    return [
        Check(
            known[name].name.split(",")[0],
            round(rate, 1),
            _in_ms(expect(cost, demands[name].draw(), rate)),
            _in_ms({one: median(latency_s[one] for latency_s in measured[name, rate]) for one in PERCENTILES}),
        )
        for name, rate in rates
    ]


def _in_ms(latency_s: dict[int, float]) -> dict[int, float]:
    return {one: round(1000 * seconds, 1) for one, seconds in latency_s.items()}
