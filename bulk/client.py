"""Embeds texts through a server with concurrent requests, which are retried while the server is busy or unavailable."""

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
"""HTTP statuses after which to send the request again."""
REFUSED = frozenset({400, 413, 422})
"""HTTP statuses that depend on the content of a request: half of it may succeed."""
TIMEOUT_S = 120.0
"""The time limit of one attempt, from the connection to the end of the response."""
ANSWER_BYTES, VECTOR_BYTES = 2**20, 2**16
"""The largest response: a fixed part, and a part per vector (enough for 10,000 dimensions)."""
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 60.0
MESSAGE_CHARACTERS = 500
"""How much of an error message is kept."""
NO_TEXT = "the text is null or not UTF-8"
MIN_LOGGED_WAIT_S = 2.0
"""Do not log shorter waits before a retry."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server, and how to send requests to it."""

    url: str
    """Without `/v1`."""
    model: str
    request: Mapping[str, Any]
    """Additional fields of each request."""
    batch: int
    """Texts per request."""
    at_once: int
    """Concurrent requests."""
    patience_s: float
    """How long to retry a request."""
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
    """A response."""

    status: int
    content: bytes
    retry_after_s: float
    """0 if the response has no Retry-After."""

    @property
    def message(self) -> str:
        """The message in OpenAI's format, or else the content, without control characters."""
        try:
            text = msgspec.json.decode(self.content, type=_Failure).error.message
        except (msgspec.DecodeError, RecursionError):
            text = self.content.decode(errors="replace")
        return "".join(char if char.isprintable() else " " for char in text[:MESSAGE_CHARACTERS])


def ignore_progress(_: int) -> None:
    """A progress callback that does nothing."""


async def embed(
    endpoint: Endpoint, texts: Sequence[str | None], advance: Callable[[int], object] = ignore_progress
) -> list[Vector | Refusal]:
    """Embed texts. The result for each is a vector [dimensions], or a refusal with the server's reason.

    Args:
        endpoint: the server.
        texts: None for a missing text.
        advance: called with the number of texts just completed.

    Raises:
        JobError: the server rejects the API key or the model, or is not an embedding API.
        Unavailable: a request failed for longer than `patience_s`.
    """
    results: list[Vector | Refusal] = [Refusal(NO_TEXT)] * len(texts)
    present = [(row, text) for row, text in enumerate(texts) if text is not None]
    slots = asyncio.Semaphore(endpoint.at_once)
    headers = {"content-type": "application/json", "accept-encoding": "identity"}
    if endpoint.key:
        headers["authorization"] = f"Bearer {endpoint.key}"
    limits = httpx2.Limits(max_connections=endpoint.at_once, max_keepalive_connections=endpoint.at_once)

    async def embed_batch(rows: Sequence[tuple[int, str]]) -> None:
        async with slots:
            embedded = await _embed(client, endpoint, [text for _, text in rows])
        for (row, _), result in zip(rows, embedded, strict=True):
            results[row] = result
        advance(len(rows))

    advance(len(texts) - len(present))
    async with httpx2.AsyncClient(headers=headers, limits=limits, timeout=TIMEOUT_S) as client:
        try:
            async with asyncio.TaskGroup() as group:
                for first in range(0, len(present), endpoint.batch):
                    group.create_task(embed_batch(present[first : first + endpoint.batch]))
        except ExceptionGroup as failed:  # not except*: Python before 3.11.4 wraps exceptions raised in it
            raise failed.exceptions[0] from None
    return results


async def _embed(client: httpx2.AsyncClient, endpoint: Endpoint, texts: Sequence[str]) -> list[Vector | Refusal]:
    """Embed texts in one request. If it is refused, split it in half repeatedly to find the refused texts."""
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
    """Send a request, with retries. A timeout of the server (504) is retried only for a single text."""
    body = msgspec.json.encode(
        {"encoding_format": "base64", **endpoint.request, "model": endpoint.model, "input": texts}
    )
    wait_s, deadline = FIRST_WAIT_S, time.monotonic() + endpoint.patience_s
    while True:
        retry_after_s = 0.0
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await _ask(client, endpoint, body, ANSWER_BYTES + VECTOR_BYTES * len(texts))
        except (httpx2.TransportError, TimeoutError) as exc:
            problem = f"{type(exc).__name__}: {exc}".rstrip(": ")
        else:
            if answer.status not in RETRIED or (answer.status == 504 and len(texts) > 1):
                return answer
            problem = f"{answer.status} {answer.message}"
            retry_after_s = answer.retry_after_s
        # Jitter: requests that failed together must not be retried together.
        pause_s = max(wait_s, retry_after_s) * random.uniform(1, 1.5)  # noqa: S311 - no secret
        if time.monotonic() + pause_s > deadline:
            limit = f"the next retry, in {pause_s:.0f} s, would exceed --patience ({endpoint.patience_s:g} s)"
            raise Unavailable(f"{problem}; {limit}")
        if pause_s > MIN_LOGGED_WAIT_S:
            log.warning("%s; retrying in %.0f s", problem, pause_s)
        await asyncio.sleep(pause_s)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


async def _ask(client: httpx2.AsyncClient, endpoint: Endpoint, body: bytes, max_bytes: int) -> _Reply:
    content = bytearray()
    async with client.stream("POST", f"{endpoint.url}/v1/embeddings", content=body) as answer:
        async for chunk in answer.aiter_raw():
            content += chunk
            if len(content) > max_bytes:
                raise _invalid(f"more than {max_bytes} bytes")
    retry_after = answer.headers.get("retry-after", "")  # in seconds; a date is not supported
    return _Reply(answer.status_code, bytes(content), float(retry_after) if retry_after.isdecimal() else 0)


def _vectors(content: bytes, count: int) -> list[Vector | Refusal]:
    try:
        items = msgspec.json.decode(content, type=_Answer).data
        vectors = {item.index: np.frombuffer(base64.b64decode(item.embedding, validate=True), "<f4") for item in items}
        ordered = [vectors[i] for i in range(count)]
    except (msgspec.DecodeError, RecursionError, ValueError, KeyError) as exc:
        raise _invalid(repr(exc)) from None
    if len(items) != count:
        raise _invalid(f"{len(items)} vectors for {count} texts")
    if not all(len(vector) and np.isfinite(vector).all() for vector in ordered):
        raise _invalid("a vector is empty or has values that are not finite")
    return [*ordered]


def _invalid(why: str) -> JobError:
    return JobError(f"the response is not that of an embedding API: {why}")
