"""What the gateway's cache saves where queries repeat themselves, and what it costs where none does.

Gateways without a cache, with one for all texts and with one for a quarter of them stand in front of one Triton. They
are measured in turns.
"""

import argparse
import asyncio
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from itertools import cycle, islice
from pathlib import Path

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray
from rich.console import Console

from gateway.cache import OVERHEAD_BYTES, Cache
from loadtest.tools import instant, machine
from loadtest.tools.client import send
from loadtest.tools.results import STORED, store
from loadtest.tools.servers import HOST, REPOSITORY, Server, conch, gateway
from loadtest.tools.workloads import EMBEDDING_MODEL, SEED, SHORT_WORDS, texts

RESULTS = STORED / "cache.json"
PATH = "/v1/embeddings"
CLIENTS = 16
DISTINCT = 2048
"""Texts that the repeated queries are drawn from."""
EXPONENT = 1.0
"""Of Zipf's law: the n-th most frequent text is asked for with a probability proportional to 1 / n to this power."""
DIMENSIONS = 384
RESULT_BYTES = OVERHEAD_BYTES + 4 * DIMENSIONS
OFF, ALL, QUARTER = "off", "all", "quarter"
CACHES: Mapping[str, int] = {OFF: 0, ALL: 2 * DISTINCT * RESULT_BYTES, QUARTER: DISTINCT * RESULT_BYTES // 4}
"""Bytes of the cache of each gateway, by its name."""
ZIPF, ONCE, INSTANT = "zipf", "once", "once, models that answer at once"
BULK = 64
"""Texts in a request that fills a cache."""
TOKENS = (18, 128)
"""Of the texts whose cost is measured."""
SLICES = 5
MOST = 2**14
"""Requests of one measurement."""

console = Console(highlight=False, width=120)


class Run(msgspec.Struct, frozen=True):
    """One measurement."""

    workload: str
    cache: str
    """The name of the gateway, in CACHES."""
    round: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    """CPU time of the gateway per request."""
    hit_rate: float


class Cost(msgspec.Struct, frozen=True):
    """CPU time of the cache by itself for a text, in microseconds: medians."""

    tokens: int
    miss_us: float
    """To look for it, and to keep it in the place of another."""
    hit_us: float


class Results(msgspec.Struct, frozen=True):
    """All that was measured."""

    machine: dict[str, str | int | float]
    clients: int
    distinct: int
    exponent: float
    caches: dict[str, int]
    costs: list[Cost]
    runs: list[Run]


def main() -> int:
    """Measure, store and print."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.experiments.cache", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    costs = [cost(tokens) for tokens in TOKENS]
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="conch-") as scratch:
        folder = Path(scratch)
        quick = instant.write(folder / "models")
        with ExitStack() as stack:
            servers = _servers(stack, REPOSITORY, folder)
            for workload in (ZIPF, ONCE):
                runs += measure(servers, workload, arguments.rounds, arguments.seconds)
        with ExitStack() as stack:  # differences are small here: many short measurements close to each other
            servers = _servers(stack, quick, folder)
            runs += measure(servers, INSTANT, SLICES * arguments.rounds, arguments.seconds / SLICES)
    store(Results(machine.describe(), CLIENTS, DISTINCT, EXPONENT, dict(CACHES), costs, runs), arguments.out)
    return 0


def _servers(stack: ExitStack, repository: Path, folder: Path) -> dict[str, Server]:
    """A gateway with each cache, in front of one Triton."""
    first = stack.enter_context(conch(repository, folder / "off.log"))
    settings = {"GATEWAY_TRITON_URL": f"{HOST}:{first.ports['TRITON_GRPC_PORT']}", "GATEWAY_WORKERS": "1"}
    others = {
        name: stack.enter_context(
            gateway(repository, folder / f"{name}.log", GATEWAY_CACHE_BYTES=str(size), **settings)
        )
        for name, size in CACHES.items()
        if size
    }
    return {OFF: first, **others}


def measure(servers: Mapping[str, Server], workload: str, rounds: int, seconds: float) -> list[Run]:
    """Measure a workload in turns. The caches are filled before, and a round before the first does not count."""
    bodies = {name: requests(workload) for name in servers}  # each gets the same
    for name, server in servers.items():
        if workload == ZIPF and name != OFF:
            fill(server)
    runs: list[Run] = []
    for number in range(-1, rounds):
        for name in list(servers)[:: 1 if number % 2 else -1]:
            run = _run(servers[name], workload, name, number, list(islice(bodies[name], MOST)), seconds)
            console.print(
                f"{workload:34} {name:8} {run.per_second:7.0f}/s p50 {run.p50_ms:7.1f} p99 {run.p99_ms:7.1f} ms"
                f" gateway {run.cpu_ms:.3f} ms hits {run.hit_rate:.1%}"
            )
            if number >= 0:
                runs.append(run)
    return runs


def _run(server: Server, workload: str, cache: str, number: int, bodies: Sequence[bytes], seconds: float) -> Run:
    hits, misses, cpu_s = *_looked_up(server), server.cpu_s()["gateway"]
    answers = send(HOST, server.port, PATH, bodies, CLIENTS, seconds)
    cpu_ms = 1000 * (server.cpu_s()["gateway"] - cpu_s) / len(answers.latencies_ms)
    found, computed = (after - before for after, before in zip(_looked_up(server), (hits, misses), strict=True))
    p50_ms, p99_ms = np.percentile(answers.latencies_ms, (50, 99)).tolist()
    hit_rate = found / max(1, found + computed)
    return Run(workload, cache, number, answers.per_second, p50_ms, p99_ms, cpu_ms, hit_rate)


def fill(server: Server) -> None:
    """Send as many texts as fill a cache with those that are usual by then, in a few requests."""
    drawn = _drawn(np.random.default_rng(SEED + 1))
    for _ in range(2 * DISTINCT // BULK):
        with closing(HTTPConnection(HOST, server.port, timeout=100)) as connection:
            connection.request("POST", PATH, _body([*islice(drawn, BULK)]), {"content-type": "application/json"})
            connection.getresponse().read()


def cost(tokens: int) -> Cost:
    """Measure a full cache in this process, with calls of one text."""
    chance = np.random.default_rng(SEED)
    vector = chance.standard_normal(DIMENSIONS, np.float32)
    cache = Cache(CACHES[QUARTER])
    times: dict[str, list[float]] = {"miss": [], "hit": []}
    for _ in range(31):
        rows: list[list[int]] = chance.integers(0, 30_000, (DISTINCT // 8, tokens)).tolist()
        for found in times.values():  # the second time, all are there
            began = time.process_time()
            asyncio.run(_send_through(cache, rows, vector))
            found.append(1e6 * (time.process_time() - began) / len(rows))
    return Cost(tokens, statistics.median(times["miss"]), statistics.median(times["hit"]))


async def _send_through(cache: Cache, rows: Sequence[list[int]], vector: NDArray[np.float32]) -> None:
    """What the service does with the cache for each text."""
    computed = np.empty_like(vector)
    for row in rows:
        lookup = await cache.lookup("1 embedding", [(row,)], ())
        for _, packed in lookup.found:
            computed[:] = np.frombuffer(packed, np.float32)
        lookup.keep(lookup.missing, lambda _: vector.tobytes())


def _looked_up(server: Server) -> tuple[float, float]:
    """Hits and misses so far."""
    with urllib.request.urlopen(f"http://{HOST}:{server.port}/metrics", timeout=5) as answer:
        content = answer.read().decode()
    hits, misses = (
        sum(map(float, re.findall(rf"^conch_cache_{what}_total{{.*}} (\S+)$", content, re.MULTILINE)))
        for what in ("hits", "misses")
    )
    return hits, misses


def requests(workload: str) -> Iterator[bytes]:
    """The bodies of a workload, without end."""
    if workload == ZIPF:
        return map(_body, _drawn(np.random.default_rng(SEED)))
    return (_body(f"{number} {text}") for number, text in enumerate(cycle(_known())))


def _drawn(chance: np.random.Generator) -> Iterator[str]:
    """Texts by Zipf's law, without end."""
    known = _known()
    weights = 1 / np.arange(1, DISTINCT + 1) ** EXPONENT
    while True:
        yield from (known[i] for i in chance.choice(DISTINCT, DISTINCT, p=weights / weights.sum()))


def _known() -> list[str]:
    return texts(np.random.default_rng(SEED), np.full(DISTINCT, SHORT_WORDS))


def _body(text: str | Sequence[str]) -> bytes:
    return orjson.dumps({"model": EMBEDDING_MODEL, "input": text, "encoding_format": "base64"})


def ratio(runs: Sequence[Run], workload: str, cache: str, measure: str) -> tuple[float, float, float]:
    """The median over rounds of a measure with a cache over the one without, and the least and the largest."""
    by_round: dict[int, dict[str, float]] = {}
    for run in runs:
        if run.workload == workload:
            by_round.setdefault(run.round, {})[run.cache] = getattr(run, measure)
    found = [one[cache] / one[OFF] for one in by_round.values()]
    return statistics.median(found), min(found), max(found)


if __name__ == "__main__":
    sys.exit(main())
