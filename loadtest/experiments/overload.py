"""A load of many times a server's capacity, and how the server handles it."""

import asyncio
import random
import time
from collections import Counter

import msgspec
import numpy as np

from loadtest.tools.client import Answers, Connection, ask, send
from loadtest.tools.servers import HOST, Server
from loadtest.tools.steady import GRACE_S, TIMEOUT_S, console
from loadtest.tools.workloads import Workload

FACTOR = 5
PEAK_CLIENTS = 64
PEAK_S = 15.0
LOOK_S = 0.5
"""The interval between measurements of memory."""
AFTER_LOAD_S = 5.0


class Overload(msgspec.Struct, frozen=True):
    """Five times as much as can be done."""

    peak_per_second: float
    """Answers, with as many clients as give the most."""
    peak_p50_ms: float
    peak_p99_ms: float
    goodput_per_second: float
    """Answers with 200 under the load, of what is offered."""
    offered_per_second: float
    accepted_p50_ms: float
    accepted_p99_ms: float
    statuses: dict[str, int]
    lost: int
    gateway_mib: tuple[float, float]
    """Before, and the most meanwhile."""
    after_per_second: float
    """The most again, measured from five seconds after the load's end."""


async def overload(server: Server, workload: Workload, seconds: float, factor: float = FACTOR) -> Overload:
    """Find out how much can be done, and offer so many times as much."""
    peak = await asyncio.to_thread(_peak, server, workload)
    before = server.rss_mib()["gateway"]
    rate = factor * peak.per_second
    statuses: Counter[str] = Counter()
    latencies: list[float] = []
    most = before
    idle: list[Connection] = []

    async def one(body: bytes) -> None:
        sent = time.perf_counter()
        try:
            connection = idle.pop() if idle else await asyncio.open_connection(HOST, server.port)
            async with asyncio.timeout(TIMEOUT_S + GRACE_S):
                status = await ask(connection, workload.path, body)
        except TimeoutError:
            statuses["lost"] += 1
            return
        except (OSError, asyncio.IncompleteReadError) as exc:
            statuses[type(exc).__name__] += 1
            return
        statuses[status] += 1
        idle.append(connection)
        if status == "200":
            latencies.append(1000 * (time.perf_counter() - sent))

    started = time.perf_counter()
    sent, looked_at = 0, 0.0
    chance = random.Random(0)  # noqa: S311 - no secret
    async with asyncio.TaskGroup() as group:
        while (passed := time.perf_counter() - started) < seconds:
            while sent < passed * rate:
                group.create_task(one(chance.choice(workload.bodies)))  # in turns, the same ones might get through
                sent += 1
            if passed > looked_at + LOOK_S:
                looked_at, most = passed, max(most, server.rss_mib()["gateway"])
            await asyncio.sleep(0.02)
    ended = time.perf_counter() - started
    for _, writer in idle:
        writer.close()
    await asyncio.sleep(AFTER_LOAD_S)
    after = await asyncio.to_thread(_peak, server, workload)
    result = Overload(
        peak_per_second=peak.per_second,
        peak_p50_ms=float(np.percentile(peak.latencies_ms, 50)),
        peak_p99_ms=float(np.percentile(peak.latencies_ms, 99)),
        goodput_per_second=statuses["200"] / ended,
        offered_per_second=sent / ended,
        accepted_p50_ms=float(np.percentile(latencies, 50)),
        accepted_p99_ms=float(np.percentile(latencies, 99)),
        statuses=dict(statuses),
        lost=statuses["lost"],
        gateway_mib=(before, most),
        after_per_second=after.per_second,
    )
    console.print(msgspec.json.encode(result).decode())
    return result


def _peak(server: Server, workload: Workload) -> Answers:
    return send(HOST, server.port, workload.path, workload.bodies, PEAK_CLIENTS, PEAK_S)
