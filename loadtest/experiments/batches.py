"""Whether a batch leaves online requests alone, and whether it survives the death of the gateway.

Online requests come at random times. They are measured in turns without a batch and while one runs, which is then
cancelled. At last, a whole batch runs beside them, and the gateway is killed in its middle: every text must have one
result, and the right one.
"""

import argparse
import asyncio
import base64
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import numpy as np
import orjson
from rich.console import Console

from loadtest.experiments.faults import pids
from loadtest.tools import machine
from loadtest.tools.client import BenchmarkError, Connection, ask
from loadtest.tools.results import STORED, store
from loadtest.tools.servers import HOST, REPOSITORY, Server, conch
from loadtest.tools.workloads import EMBEDDING_MODEL, SEED, mixed_lengths, texts

RESULTS = STORED / "batches.json"
PATH = "/v1/embeddings"
FINISHED = frozenset({"completed", "failed", "expired", "cancelled"})
CHECKED = 64
"""Results of the whole batch that are compared with those of online requests."""
LEAST_COSINE = 0.999
TIMEOUT_S = 30

console = Console(highlight=False, width=120)


class Online(msgspec.Struct, frozen=True):
    """Online requests, without or beside a batch."""

    requests: int
    p50_ms: float
    p99_ms: float
    failed: int
    """Those whose answer was not 200, or none."""


class Whole(msgspec.Struct, frozen=True):
    """A batch that ran to its end beside online requests."""

    seconds: float
    texts_per_second: float
    completed: int
    failed: int
    missing: int
    """Texts without a result."""
    repeated: int
    """Results of texts that had one already."""
    least_cosine: float
    """Of the results that were compared."""
    done_when_killed: int
    """Texts that had a result when the gateway was killed."""


class Results(msgspec.Struct, frozen=True):
    """All that is measured."""

    machine: dict[str, str | int | float]
    texts: int
    online_per_second: float
    without: Online
    beside: Online
    whole: Whole


async def online(server: Server, bodies: list[bytes], per_second: float, seconds: float, latencies: list[float]) -> int:
    """Send requests at random times; add the latency of each, in milliseconds, and return how many failed."""
    chance = random.Random(SEED)  # noqa: S311 - no secret
    idle: list[Connection] = []
    failed = 0

    async def one(body: bytes) -> None:
        nonlocal failed
        sent = time.perf_counter()
        try:
            connection = idle.pop() if idle else await asyncio.open_connection(HOST, server.port)
            async with asyncio.timeout(TIMEOUT_S):
                status = await ask(connection, PATH, body)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            failed += 1
            return
        idle.append(connection)
        failed += status != "200"
        latencies.append(1000 * (time.perf_counter() - sent))

    started = time.perf_counter()
    due = 0.0
    async with asyncio.TaskGroup() as group:
        while (due := due + chance.expovariate(per_second)) < seconds:
            await asyncio.sleep(started + due - time.perf_counter())
            group.create_task(one(chance.choice(bodies)))
    for _, writer in idle:
        writer.close()
    return failed


class Batches:
    """The API of batches."""

    def __init__(self, server: Server) -> None:
        self._client = httpx2.AsyncClient(base_url=f"http://{HOST}:{server.port}/v1", timeout=600)

    async def upload(self, given: list[str]) -> str:
        """Upload a request for each text."""
        lines = b"".join(
            orjson.dumps(
                {
                    "custom_id": str(number),
                    "method": "POST",
                    "url": PATH,
                    "body": {"model": EMBEDDING_MODEL, "input": text, "encoding_format": "base64", "truncate": True},
                }
            )
            + b"\n"
            for number, text in enumerate(given)
        )
        answer = await self._client.post("/files", data={"purpose": "batch"}, files={"file": ("texts.jsonl", lines)})
        return str(_checked(answer)["id"])

    async def begin(self, file_id: str) -> str:
        """Begin a batch, and wait until it runs."""
        body = {"input_file_id": file_id, "endpoint": PATH, "completion_window": "24h"}
        batch_id = str(_checked(await self._client.post("/batches", json=body))["id"])
        while (await self.look(batch_id))["request_counts"]["completed"] == 0:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.2)
        return batch_id

    async def look(self, batch_id: str) -> dict[str, Any]:
        """A batch; while the gateway is down, this waits."""
        while True:
            try:
                return _checked(await self._client.get(f"/batches/{batch_id}"))
            except httpx2.TransportError:
                await asyncio.sleep(0.2)

    async def wait(self, batch_id: str) -> dict[str, Any]:
        """Wait for the end of a batch."""
        while (batch := await self.look(batch_id))["status"] not in FINISHED:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.5)
        return batch

    async def cancel(self, batch_id: str) -> None:
        """Cancel a batch, and wait for its end."""
        _checked(await self._client.post(f"/batches/{batch_id}/cancel"))
        await self.wait(batch_id)

    async def content(self, file_id: str) -> list[dict[str, Any]]:
        """The lines of a file."""
        answer = await self._client.get(f"/files/{file_id}/content")
        return [orjson.loads(line) for line in answer.content.splitlines()]

    async def embed(self, given: list[str]) -> list[str]:
        """Embed texts by an online request."""
        body = {"model": EMBEDDING_MODEL, "input": given, "encoding_format": "base64", "truncate": True}
        return [item["embedding"] for item in _checked(await self._client.post("/embeddings", json=body))["data"]]


def _checked(answer: httpx2.Response) -> dict[str, Any]:
    if answer.status_code != 200:
        raise BenchmarkError(f"{answer.request.url}: {answer.status_code} {answer.text}")
    found: dict[str, Any] = answer.json()
    return found


async def measure(server: Server, given: list[str], rounds: int, seconds: float, per_second: float) -> Results:
    """Measure online requests in turns, then run a whole batch and kill the gateway in its middle."""
    api = Batches(server)
    chance = np.random.default_rng(SEED + 1)
    bodies = [
        orjson.dumps({"model": EMBEDDING_MODEL, "input": text, "truncate": True})
        for text in texts(chance, mixed_lengths(chance, 2048))
    ]
    file_id = await api.upload(given)
    latencies: dict[bool, list[float]] = {False: [], True: []}
    failed: Counter[bool] = Counter()
    await online(server, bodies, per_second, seconds, [])  # warms up
    for number in range(rounds):
        for has_batch in (False, True) if number % 2 else (True, False):
            batch_id = await api.begin(file_id) if has_batch else None
            failed[has_batch] += await online(server, bodies, per_second, seconds, latencies[has_batch])
            done = 0
            if batch_id is not None:
                done = (await api.look(batch_id))["request_counts"]["completed"]
                await api.cancel(batch_id)
            p50, p99 = np.percentile(latencies[has_batch], (50, 99))
            name = f"beside a batch ({done} done)" if has_batch else "without"
            console.print(f"round {number} {name:30} p50 {p50:6.1f} p99 {p99:6.1f} ms failed {failed[has_batch]}")
    without, beside = (
        Online(
            len(latencies[one]),
            float(np.percentile(latencies[one], 50)),
            float(np.percentile(latencies[one], 99)),
            failed[one],
        )
        for one in (False, True)
    )
    whole = await _whole(server, api, file_id, given, bodies, per_second)
    return Results(machine.describe(), len(given), per_second, without, beside, whole)


async def _whole(
    server: Server, api: Batches, file_id: str, given: list[str], bodies: list[bytes], per_second: float
) -> Whole:
    """Run a batch to its end beside online requests, and kill the gateway when half of it is done."""
    started = time.perf_counter()
    batch_id = await api.begin(file_id)
    load = asyncio.create_task(online(server, bodies, per_second, 24 * 3600, []))
    while (done := (await api.look(batch_id))["request_counts"]["completed"]) < len(given) / 2:  # noqa: ASYNC110 - it is another process
        await asyncio.sleep(0.2)
    for gateway in pids(server, "gateway"):
        os.kill(gateway, signal.SIGKILL)
    console.print(f"killed the gateway after {done} texts")
    batch = await api.wait(batch_id)
    seconds = time.perf_counter() - started
    load.cancel()
    await asyncio.gather(load, return_exceptions=True)
    lines = await api.content(batch["output_file_id"])
    seen = Counter(int(line["custom_id"]) for line in lines)
    vectors = {int(line["custom_id"]): line["response"]["body"]["data"][0]["embedding"] for line in lines}
    checked = random.Random(SEED).sample(range(len(given)), min(CHECKED, len(given)))  # noqa: S311 - no secret
    expected = await api.embed([given[number] for number in checked])
    cosines = [
        float(_vector(vectors[number]) @ _vector(one))
        for number, one in zip(checked, expected, strict=True)
        if number in vectors
    ]
    counts = batch["request_counts"]
    return Whole(
        seconds=seconds,
        texts_per_second=len(given) / seconds,
        completed=counts["completed"],
        failed=counts["failed"],
        missing=len(given) - len(seen),
        repeated=seen.total() - len(seen),
        least_cosine=min(cosines),
        done_when_killed=done,
    )


def _vector(encoded: str) -> Any:  # noqa: ANN401 - a vector
    return np.frombuffer(base64.b64decode(encoded), np.float32)


def main() -> int:
    """Measure, store and print. The exit code is 1 if something is lost, repeated or wrong."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.experiments.batches", description=__doc__)
    parser.add_argument("--texts", type=int, default=50_000, help="of the batch")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement")
    parser.add_argument("--per-second", type=float, default=20, help="online requests")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    chance = np.random.default_rng(SEED)
    given = texts(chance, mixed_lengths(chance, arguments.texts))
    with tempfile.TemporaryDirectory(prefix="conch-") as scratch:
        folder = Path(scratch)
        with conch(REPOSITORY, folder / "log", GATEWAY_BATCH_FOLDER=str(folder / "batches")) as server:
            results = asyncio.run(measure(server, given, arguments.rounds, arguments.seconds, arguments.per_second))
    console.print(msgspec.json.encode(results).decode())
    store(results, arguments.out)
    whole = results.whole
    is_right = not whole.missing and not whole.repeated and not whole.failed and whole.least_cosine > LEAST_COSINE
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
