"""Embeds texts through a server: many requests at a time, each sent again while the server is busy or away."""

import asyncio
import base64
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2
import msgspec
import numpy as np

from bulk.job import JobError, Refusal, Unavailable, Vector

RETRIED = frozenset({408, 429, 500, 502, 503, 504})
REFUSED = frozenset({400, 413, 422})
"""For what is in the request: half of it may pass."""
TIMEOUT_S = 120.0
"""Of an attempt, from the connection to the end of the answer."""
ANSWER_BYTES, VECTOR_BYTES = 2**20, 2**16
"""The largest answer: a fixed part, and a part for each vector (enough for 10,000 numbers)."""
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 60.0
MESSAGE_CHARACTERS = 500
NO_TEXT = "the text is null, or not UTF-8"
WORTH_A_WORD_S = 2.0
"""A shorter wait is daily life."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where texts are sent, and how."""

    url: str
    """Up to and without `/v1`."""
    model: str
    request: Mapping[str, Any]
    """More fields of each request."""
    batch: int
    """Texts in a request."""
    at_once: int
    """Requests."""
    patience_s: float
    """How long to go on trying with a request."""
    key: str | None = field(default=None, repr=False)


class _Item(msgspec.Struct, frozen=True):
    index: int
    embedding: str
    """float32, little-endian, in base64."""


class _Answer(msgspec.Struct, frozen=True):
    data: list[_Item]


class _Error(msgspec.Struct, frozen=True):
    message: str


class _Failure(msgspec.Struct, frozen=True):
    error: _Error


@dataclass(frozen=True, slots=True)
class _Reply:
    """What came back."""

    status: int
    content: bytes
    retry_after_s: float
    """0 where nothing is said of it."""

    @property
    def message(self) -> str:
        """OpenAI's, or what there is; a line that does nothing to a terminal."""
        try:
            text = msgspec.json.decode(self.content, type=_Failure).error.message
        except (msgspec.DecodeError, RecursionError):
            text = self.content.decode(errors="replace")
        return "".join(char if char.isprintable() else " " for char in text[:MESSAGE_CHARACTERS])


def unwatched(_: int) -> None:
    """Progress that nobody looks at."""


async def embed(
    endpoint: Endpoint, texts: Sequence[str | None], advance: Callable[[int], object] = unwatched
) -> list[Vector | Refusal]:
    """Embed texts, each to a vector [dimensions], or to why the server refuses it.

    Args:
        endpoint: where.
        texts: None for a missing text.
        advance: called with the number of texts just done.

    Raises:
        JobError: the server refuses the key, the model, or does not answer as an embedding API does.
        Unavailable: it did not answer for longer than `patience_s`.
    """
    results: list[Vector | Refusal] = [Refusal(NO_TEXT)] * len(texts)
    given = [(row, text) for row, text in enumerate(texts) if text is not None]
    free = asyncio.Semaphore(endpoint.at_once)
    headers = {"content-type": "application/json", "accept-encoding": "identity"}
    if endpoint.key:
        headers["authorization"] = f"Bearer {endpoint.key}"
    limits = httpx2.Limits(max_connections=endpoint.at_once, max_keepalive_connections=endpoint.at_once)

    async def part(rows: Sequence[tuple[int, str]]) -> None:
        async with free:
            found = await _embed(client, endpoint, [text for _, text in rows])
        for (row, _), result in zip(rows, found, strict=True):
            results[row] = result
        advance(len(rows))

    advance(len(texts) - len(given))
    async with httpx2.AsyncClient(headers=headers, limits=limits, timeout=TIMEOUT_S) as client:
        try:
            async with asyncio.TaskGroup() as group:
                for first in range(0, len(given), endpoint.batch):
                    group.create_task(part(given[first : first + endpoint.batch]))
        except ExceptionGroup as failed:  # not except*: Python before 3.11.4 wraps what is raised in there
            raise failed.exceptions[0] from None
    return results


async def _embed(client: httpx2.AsyncClient, endpoint: Endpoint, texts: Sequence[str]) -> list[Vector | Refusal]:
    """Embed texts in one request; in halves where that is refused, down to the text that is to blame."""
    answer = await _post(client, endpoint, texts)
    if answer.status == 200:
        return _vectors(answer.content, len(texts))
    if answer.status not in REFUSED and answer.status not in RETRIED:
        raise JobError(f"{answer.status} {answer.message}")
    if len(texts) == 1:
        return [Refusal(answer.message.replace("input[0]", "the text"))]
    half = len(texts) // 2
    return await _embed(client, endpoint, texts[:half]) + await _embed(client, endpoint, texts[half:])


async def _post(client: httpx2.AsyncClient, endpoint: Endpoint, texts: Sequence[str]) -> _Reply:
    """Send a request until it is answered; a time-out at the server (504) is final for several texts together."""
    body = msgspec.json.encode(
        {"encoding_format": "base64", **endpoint.request, "model": endpoint.model, "input": texts}
    )
    wait_s, given_up = FIRST_WAIT_S, time.monotonic() + endpoint.patience_s
    while True:
        asked_s = 0.0
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await _ask(client, endpoint, body, ANSWER_BYTES + VECTOR_BYTES * len(texts))
        except (httpx2.TransportError, TimeoutError) as exc:
            problem = f"{type(exc).__name__}: {exc}".rstrip(": ")
        else:
            if answer.status not in RETRIED or (answer.status == 504 and len(texts) > 1):
                return answer
            problem = f"{answer.status} {answer.message}"
            asked_s = answer.retry_after_s
        # Of those that were refused together, no two come again at the same time.
        pause_s = max(wait_s, asked_s) * random.uniform(1, 1.5)  # noqa: S311 - no secret
        if time.monotonic() + pause_s > given_up:
            beyond = f"the next attempt in {pause_s:.0f} s is beyond {endpoint.patience_s:g} s of patience"
            raise Unavailable(f"{problem}; {beyond}")
        if pause_s > WORTH_A_WORD_S:
            log.warning("%s; trying again in %.0f s", problem, pause_s)
        await asyncio.sleep(pause_s)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


async def _ask(client: httpx2.AsyncClient, endpoint: Endpoint, body: bytes, most_bytes: int) -> _Reply:
    """Send a request once."""
    content = bytearray()
    async with client.stream("POST", f"{endpoint.url}/v1/embeddings", content=body) as answer:
        async for chunk in answer.aiter_raw():
            content += chunk
            if len(content) > most_bytes:
                raise _strange(f"over {most_bytes} bytes")
    asked = answer.headers.get("retry-after", "")  # in seconds: dates, which it may hold as well, are not understood
    return _Reply(answer.status_code, bytes(content), float(asked) if asked.isdecimal() else 0)


def _vectors(content: bytes, count: int) -> list[Vector | Refusal]:
    try:
        items = msgspec.json.decode(content, type=_Answer).data
        vectors = {item.index: np.frombuffer(base64.b64decode(item.embedding, validate=True), "<f4") for item in items}
        found = [vectors[i] for i in range(count)]
    except (msgspec.DecodeError, RecursionError, ValueError, KeyError) as exc:
        raise _strange(repr(exc)) from None
    if len(items) != count:
        raise _strange(f"{len(items)} vectors for {count} texts")
    if not all(len(vector) and np.isfinite(vector).all() for vector in found):
        raise _strange("a vector is empty, or not of finite numbers")
    return [*found]


def _strange(why: str) -> JobError:
    return JobError(f"the server does not answer as an embedding API does: {why}")
