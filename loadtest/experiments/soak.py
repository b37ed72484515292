"""`make soak`: all kinds of requests at 70 % of what the server can do: memory, latency and errors by the minute."""

import argparse
import asyncio
import itertools
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import httpx2
import msgspec
import numpy as np
from rich.console import Console

from loadtest.tools import machine, repository
from loadtest.tools.client import send
from loadtest.tools.results import STORED, store
from loadtest.tools.servers import HOST, Server, conch
from loadtest.tools.workloads import Workload, workloads

RESULTS = STORED / "soak.json"
SHARE = 0.7
PARTS: Mapping[str, float] = {"mixed-16": 0.5, "rerank": 0.3, "images": 0.2}
"""Shares of the server's time, by workload."""
PEAK_S = 8.0
MINUTE_S = 60.0

console = Console(highlight=False, width=140)


class Minute(msgspec.Struct, frozen=True):
    """The measurements of one minute."""

    minute: int
    statuses: dict[str, int]
    """The number of answers by status, or by the name of the error instead."""
    p50_ms: dict[str, float]
    p99_ms: dict[str, float]
    """Latencies by workload."""
    rss_mib: dict[str, float]
    """Memory by process, at the end of the minute."""


class Results(msgspec.Struct, frozen=True):
    """All that was measured."""

    machine: dict[str, str | int | float]
    requests_per_second: dict[str, float]
    minutes: list[Minute]


def main() -> int:
    """Measure, store and print."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.experiments.soak", description=__doc__)
    parser.add_argument("--minutes", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    repository.prepare()
    known = {name: workloads()[name] for name in PARTS}
    with conch(repository.REPOSITORY, repository.REPOSITORY.with_name("soak.log")) as server:
        rates = {name: SHARE * PARTS[name] * _peak(server, workload) for name, workload in known.items()}
        console.print({name: round(rate, 1) for name, rate in rates.items()}, "requests a second")
        minutes = asyncio.run(_soak(server, known, rates, arguments.minutes))
    store(Results(machine.describe(), rates, minutes), arguments.out)
    return 0


def _peak(server: Server, workload: Workload) -> float:
    return send(HOST, server.port, workload.path, workload.bodies, workload.clients, PEAK_S).per_second


async def _soak(
    server: Server, known: Mapping[str, Workload], rates: Mapping[str, float], minutes: int
) -> list[Minute]:
    latencies: dict[str, list[float]] = {name: [] for name in known}
    statuses: Counter[str] = Counter()
    found = []
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx2.AsyncClient(base_url=f"http://{HOST}:{server.port}", timeout=60, limits=limits) as client:

        async def one(name: str, path: str, body: bytes) -> None:
            sent = time.perf_counter()
            try:
                statuses[str((await client.post(path, content=body)).status_code)] += 1
            except httpx2.TransportError as exc:
                statuses[type(exc).__name__] += 1
            latencies[name].append(1000 * (time.perf_counter() - sent))

        async def keep_sending(name: str, workload: Workload) -> None:
            """Send requests at Poisson-distributed times."""
            chance = np.random.default_rng(0)
            async with asyncio.TaskGroup() as group:
                due = time.perf_counter()
                for body in itertools.cycle(workload.bodies):
                    group.create_task(one(name, workload.path, body))
                    due += chance.exponential(1 / rates[name])
                    await asyncio.sleep(due - time.perf_counter())

        senders = [asyncio.create_task(keep_sending(name, workload)) for name, workload in known.items()]
        for minute in range(minutes):
            await asyncio.sleep(MINUTE_S)
            found.append(
                Minute(
                    minute=minute,
                    statuses=dict(statuses),
                    p50_ms={name: float(np.percentile(seen, 50)) for name, seen in latencies.items()},
                    p99_ms={name: float(np.percentile(seen, 99)) for name, seen in latencies.items()},
                    rss_mib=server.rss_mib(),
                )
            )
            console.print(msgspec.json.encode(found[-1]).decode())
            statuses.clear()
            for seen in latencies.values():
                seen.clear()
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
