"""A steady load of texts whose vectors are known, while something is done to the server that answers it.

Each answer is counted: correct, refused honestly (an error of the gateway's own table), unreachable (nobody took the
connection), broken (the connection was cut), wrong, or lost, which is no answer at all by the deadline.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import httpx2
import msgspec
import numpy as np
import openai
from numpy.typing import NDArray
from rich.console import Console

from gateway.errors import ERROR_SPECS
from loadtest.tools.workloads import EMBEDDING_MODEL, workloads

CLIENTS = 8
PAUSE_S = 0.1
"""Between a client's requests: steady, and far from all that the server can do."""
TEXTS = 64
TIMEOUT_S = 5
"""GATEWAY_REQUEST_TIMEOUT."""
GRACE_S = 5
"""An answer that comes later than so much after the deadline is lost."""
BEFORE_S, AFTER_S = 2.0, 5.0
RECOVERY_S = 60.0
SETTINGS: Mapping[str, str] = {"GATEWAY_REQUEST_TIMEOUT": str(TIMEOUT_S)}
HONEST = frozenset(answer.status for answer in ERROR_SPECS.values() if answer.status in (429, 499, 502, 503, 504))

console = Console(highlight=False, width=200)


class Case(msgspec.Struct, frozen=True):
    """What came of a case."""

    name: str
    requests: int
    correct: int
    refused: int
    """An error that says what is the matter, by a status of the gateway's table."""
    unreachable: int
    """Nobody took the connection."""
    broken: int
    """The connection was cut."""
    wrong: int
    """Anything else."""
    lost: int
    """No answer."""
    noticed_s: float
    """Until the gateway called itself not ready, from what was done; 0 where it did not."""
    recovery_s: float
    """Until every answer was correct and the gateway ready; 0 where that was so all the time."""
    latest_ms: float
    """The longest that any answer took."""


@dataclass
class Tally:
    """Answers by what they were."""

    counts: Counter[str] = field(default_factory=Counter)
    latest_s: float = 0.0
    failed_at: float = 0.0
    """When the last answer came, or did not, that was not correct."""
    details: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Known:
    """Texts, and their vectors as they have to be, of length 1."""

    bodies: Sequence[bytes]
    vectors: NDArray[np.float32]


async def known(url: str) -> Known:
    """Ask a server that works."""
    texts = [text for body in workloads()["short-16"].texts[:TEXTS] for text in body]
    async with httpx2.AsyncClient(base_url=url, timeout=30) as client:
        answer = (await client.post("/v1/embeddings", json={"input": texts})).json()
    vectors = np.array([item["embedding"] for item in answer["data"]], np.float32)
    return Known([json.dumps({"input": text}).encode() for text in texts], vectors)


async def steadily(url: str, what: Known, tally: Tally, stop: asyncio.Event, *, retries: bool = False) -> None:
    """Send requests until told to stop, and count what comes of each; by OpenAI's SDK, which retries, or without."""
    limits = httpx2.Limits(max_connections=2 * CLIENTS)
    async with (
        httpx2.AsyncClient(base_url=url, timeout=TIMEOUT_S + GRACE_S, limits=limits) as client,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=TIMEOUT_S + GRACE_S) as sdk,
    ):

        async def one(number: int) -> None:
            while not stop.is_set():
                index = number % len(what.bodies)
                ask = _by_sdk(sdk, what, index) if retries else _plainly(client, what, index)
                await _count(ask, tally)
                number += CLIENTS
                await asyncio.sleep(PAUSE_S)

        await asyncio.gather(*(one(number) for number in range(CLIENTS)))


async def _plainly(client: httpx2.AsyncClient, what: Known, number: int) -> tuple[str, str]:
    """What comes of one request, and details."""
    try:
        answer = await client.post("/v1/embeddings", content=what.bodies[number])
    except httpx2.TimeoutException:
        return "lost", "timeout"
    except httpx2.ConnectError:
        return "unreachable", ""
    except httpx2.TransportError as exc:
        return "broken", type(exc).__name__
    kind = _judge(answer.status_code, answer.content, what.vectors[number])
    return kind, f"{answer.status_code} {answer.text[:100] if kind != 'correct' else ''}"


async def _by_sdk(sdk: openai.AsyncOpenAI, what: Known, number: int) -> tuple[str, str]:
    """The same with the SDK's own retries, two at most."""
    text = json.loads(what.bodies[number])["input"]
    try:
        raw = await sdk.embeddings.with_raw_response.create(input=text, model=EMBEDDING_MODEL, encoding_format="float")
    except openai.APITimeoutError:
        return "lost", "timeout"
    except openai.APIConnectionError as exc:
        cause = type(exc.__cause__).__name__
        return ("unreachable" if cause == "ConnectError" else "broken"), cause
    except openai.APIStatusError as exc:
        return _judge(exc.status_code, exc.response.content, what.vectors[number]), str(exc)[:100]
    return _judge(raw.http_response.status_code, raw.http_response.content, what.vectors[number]), ""


async def _count(ask: Awaitable[tuple[str, str]], tally: Tally) -> None:
    started = time.perf_counter()
    kind, detail = await ask
    tally.counts[kind] += 1
    if kind != "correct":
        tally.failed_at = time.perf_counter()
    tally.details[f"{kind} {detail}"] += 1
    if kind in ("correct", "refused"):
        tally.latest_s = max(tally.latest_s, time.perf_counter() - started)


def _judge(status: int, content: bytes, vector: NDArray[np.float32]) -> str:
    answer = json.loads(content)
    if status == httpx2.codes.OK:
        found = np.array(answer["data"][0]["embedding"], np.float32)
        return "correct" if float(found @ vector) > 0.999 else "wrong"
    honest = status in HONEST and "message" in answer["error"]
    return "refused" if honest else "wrong"


async def watch(url: str, readiness: list[tuple[float, bool]], stop: asyncio.Event) -> None:
    """Write down, ten times a second, whether the gateway says that it is ready."""
    async with httpx2.AsyncClient(base_url=url, timeout=2) as client:
        while not stop.is_set():
            try:
                ready = (await client.get("/health/ready")).status_code == httpx2.codes.OK
            except httpx2.TransportError:
                ready = False
            readiness.append((time.perf_counter(), ready))
            await asyncio.sleep(PAUSE_S)


async def play(
    name: str, url: str, what: Known, fault: Callable[[], Awaitable[None]], *, retries: bool = False
) -> Case:
    """Break something under a steady load, and wait until the gateway is ready again."""
    tally, stop = Tally(), asyncio.Event()
    readiness: list[tuple[float, bool]] = []
    tasks = [
        asyncio.create_task(steadily(url, what, tally, stop, retries=retries)),
        asyncio.create_task(watch(url, readiness, stop)),
    ]
    await asyncio.sleep(BEFORE_S)
    broken_at = time.perf_counter()
    await fault()
    deadline = time.perf_counter() + RECOVERY_S
    quiet_at = time.perf_counter() + AFTER_S
    while time.perf_counter() < deadline:
        await asyncio.sleep(PAUSE_S)
        if time.perf_counter() > max(quiet_at, _last_trouble(tally, readiness) + AFTER_S):
            break
    stop.set()
    await asyncio.gather(*tasks)
    trouble = _last_trouble(tally, readiness)
    unready = [at for at, ready in readiness if not ready]
    case = Case(
        name=name,
        requests=tally.counts.total(),
        correct=tally.counts["correct"],
        refused=tally.counts["refused"],
        unreachable=tally.counts["unreachable"],
        broken=tally.counts["broken"],
        wrong=tally.counts["wrong"],
        lost=tally.counts["lost"],
        noticed_s=round(unready[0] - broken_at, 1) if unready else 0.0,
        recovery_s=round(max(0.0, trouble - broken_at), 1),
        latest_ms=round(1000 * tally.latest_s),
    )
    console.print(
        f"{name:34} {case.requests:5} requests {case.correct:5} correct {case.refused:4} refused"
        f" {case.unreachable:4} unreachable {case.broken:3} broken {case.wrong:2} wrong {case.lost:2} lost,"
        f" unready after {case.noticed_s:4.1f} s, again after {case.recovery_s:4.1f} s"
    )
    for detail, count in tally.details.items():
        if not detail.startswith("correct"):
            console.print(f"{count:10} {detail}")
    return case


def _last_trouble(tally: Tally, readiness: Sequence[tuple[float, bool]]) -> float:
    return max(tally.failed_at, *(at for at, ready in readiness if not ready), 0.0)
