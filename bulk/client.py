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
from numpy.typing import NDArray

from bulk.job import JobError, Refusal, Unavailable
from bulk.kinds import Kind, Result, Sparse

RETRIED = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP statuses after which to send the request again."""
REFUSED = frozenset({400, 413, 422})
"""HTTP statuses that depend on the content of a request: half of it may succeed."""
TIMEOUT_S = 120.0
"""The time limit of one attempt, from the connection to the end of the response."""
ANSWER_BYTES: Mapping[Kind, tuple[int, int]] = {
    "dense": (2**20, 2**16),
    "sparse": (2**20, 2**20),
    "multi_vector": (2**27, 0),
    "labels": (2**20, 2**20),
}
"""The largest response by kind: a fixed part, and a part per text. They allow 10,000 dimensions, 40,000 terms, 2^24
numbers in all token vectors (the API's limit), and some thousand labels."""
ENCODINGS: Mapping[Kind, str] = {"dense": "base64", "sparse": "sparse", "multi_vector": "multi_vector"}
"""The API's `embedding_type` for each kind."""
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
    kinds: tuple[Kind, ...] = ("dense",)
    """What is requested: some kinds of vectors, or only labels."""

    @property
    def path(self) -> str:
        """The path that computes these kinds."""
        return "/classify" if "labels" in self.kinds else "/v1/embeddings"

    @property
    def fields(self) -> Mapping[str, Any]:
        """The fields that request these kinds. Dense vectors alone are requested as other servers know it."""
        if "labels" in self.kinds:  # in the format that names all labels
            return {"raw_scores": False, "truncate": False}
        if self.kinds == ("dense",):
            return {"encoding_format": "base64"}
        tokens = {"multi_vector_type": "base64"} if "multi_vector" in self.kinds else {}
        return {"embedding_type": [ENCODINGS[kind] for kind in self.kinds], **tokens}


class _Terms(msgspec.Struct, frozen=True):
    indices: list[int]
    values: list[float]


class _Embedding(msgspec.Struct, frozen=True):
    """Floats are float32, little-endian, in base64."""

    base64: str | None = None
    sparse: _Terms | None = None
    multi_vector: list[str] | None = None


class _Item(msgspec.Struct, frozen=True):
    index: int
    embedding: str | _Embedding
    """A string is dense."""


class _Answer(msgspec.Struct, frozen=True):
    data: list[_Item]


class _Label(msgspec.Struct, frozen=True):
    label: str
    score: float


class _Labels(msgspec.Struct, frozen=True):
    data: list[list[_Label]]


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
    ignored: str
    """The fields of the request that the server does not know."""

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
) -> list[Result | Refusal]:
    """Embed texts. The result for each has all requested kinds, or is a refusal with the server's reason.

    Args:
        endpoint: the server.
        texts: None for a missing text.
        advance: called with the number of texts just completed.

    Raises:
        JobError: the server rejects the API key or the model, ignores a field, or is not an embedding API.
        Unavailable: a request failed for longer than `patience_s`.
    """
    results: list[Result | Refusal] = [Refusal(NO_TEXT)] * len(texts)
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


async def _embed(client: httpx2.AsyncClient, endpoint: Endpoint, texts: Sequence[str]) -> list[Result | Refusal]:
    """Embed texts in one request. If it is refused, split it in half repeatedly to find the refused texts."""
    answer = await _post(client, endpoint, texts)
    if answer.ignored:
        raise JobError(f"the server does not know a field of --request: {answer.ignored}")
    if answer.status == 200:
        return _results(endpoint, answer.content, len(texts))
    if answer.status not in REFUSED and answer.status not in RETRIED:
        raise JobError(f"{answer.status} {answer.message}")
    if len(texts) == 1:
        return [Refusal(answer.message.replace("input[0]", "the text"))]
    half = len(texts) // 2
    return await _embed(client, endpoint, texts[:half]) + await _embed(client, endpoint, texts[half:])


async def _post(client: httpx2.AsyncClient, endpoint: Endpoint, texts: Sequence[str]) -> _Reply:
    """Send a request, with retries. A timeout of the server (504) is retried only for a single text."""
    body = msgspec.json.encode({**endpoint.fields, **endpoint.request, "model": endpoint.model, "input": texts})
    max_bytes = sum(fixed + each * len(texts) for fixed, each in (ANSWER_BYTES[kind] for kind in endpoint.kinds))
    wait_s, deadline = FIRST_WAIT_S, time.monotonic() + endpoint.patience_s
    while True:
        retry_after_s = 0.0
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await _ask(client, endpoint, body, max_bytes)
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
    async with client.stream("POST", f"{endpoint.url}{endpoint.path}", content=body) as answer:
        async for chunk in answer.aiter_raw():
            content += chunk
            if len(content) > max_bytes:
                raise _invalid(f"more than {max_bytes} bytes")
    retry_after = answer.headers.get("retry-after", "")  # in seconds; a date is not supported
    retry_after_s = float(retry_after) if retry_after.isdecimal() else 0
    return _Reply(answer.status_code, bytes(content), retry_after_s, answer.headers.get("x-conch-ignored-fields", ""))


def _results(endpoint: Endpoint, content: bytes, count: int) -> list[Result | Refusal]:
    read = _read_labels if "labels" in endpoint.kinds else _read_vectors
    try:
        results = read(content)
        ordered = [results[i] for i in range(count)]
    except (msgspec.DecodeError, RecursionError, ValueError, KeyError, OverflowError) as exc:
        raise _invalid(repr(exc)) from None
    if len(results) != count:
        raise _invalid(f"{len(results)} results for {count} texts")
    for kind in endpoint.kinds:
        if any(getattr(result, kind) is None for result in ordered):
            raise _invalid(f"a text has no {kind}")
    return [*ordered]


def _read_vectors(content: bytes) -> dict[int, Result]:
    items = msgspec.json.decode(content, type=_Answer).data
    results = {item.index: _read_embedding(item.embedding) for item in items}
    if len(results) != len(items):
        raise ValueError("an index occurs twice")
    return results


def _read_embedding(given: str | _Embedding) -> Result:
    parts = _Embedding(base64=given) if isinstance(given, str) else given
    dense = None if parts.base64 is None else _floats(parts.base64)
    if dense is not None and not len(dense):
        raise ValueError("a vector is empty")
    sparse = None if parts.sparse is None else _read_terms(parts.sparse)
    tokens = None if parts.multi_vector is None else [_floats(one) for one in parts.multi_vector]
    return Result(
        dense, sparse, None if tokens is None else np.stack(tokens) if tokens else np.zeros((0, 0), np.float32)
    )


def _read_terms(given: _Terms) -> Sparse:
    terms = Sparse(np.array(given.indices, np.int32), np.array(given.values, np.float32))
    if len(terms.indices) != len(terms.values) or not np.isfinite(terms.values).all():
        raise ValueError("a sparse vector has weights that are missing or not finite")
    return terms


def _floats(text: str) -> NDArray[np.float32]:
    vector = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    if not np.isfinite(vector).all():
        raise ValueError("a vector has values that are not finite")
    return vector


def _read_labels(content: bytes) -> dict[int, Result]:
    data = msgspec.json.decode(content, type=_Labels).data
    return {i: Result(labels=_read_scores(scored)) for i, scored in enumerate(data)}


def _read_scores(given: Sequence[_Label]) -> dict[str, float]:
    scores = {one.label: one.score for one in given}
    if len(scores) != len(given):
        raise ValueError("two labels have the same name")
    return scores


def _invalid(why: str) -> JobError:
    return JobError(f"the response is not that of an embedding API: {why}")
