"""What all routes share: the state of the app, reading a body, writing an answer."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Annotated, Any, Literal, TypedDict, TypeVar

import msgspec
from msgspec import Struct
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response

from gateway.catalog import RERANK_ROLES, Catalog, Model, TextTower
from gateway.drain import Drain
from gateway.errors import (
    ClientGone,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    NotReady,
    RequestTooLarge,
    UnsupportedEncoding,
    quoted,
)
from gateway.health import Monitor
from gateway.images.reader import Images
from gateway.routes import large_json
from gateway.routes.body_budget import Bodies, Body
from gateway.routes.decoding import MAX_IGNORED, Ignored, decode
from gateway.routes.presence import Presence
from gateway.scheduling.admission import Lines
from gateway.scheduling.threads import Threads
from gateway.scheduling.turns import Account
from gateway.service import prompts
from gateway.service.caller import Caller
from gateway.service.embed import Embeddings, Item, embed
from gateway.service.prompts import SUFFIXES
from gateway.settings import Settings
from gateway.telemetry.metrics import IGNORED_FIELDS, Metrics
from gateway.telemetry.timings import Stages
from gateway.text.tokenizer import Truncate
from gateway.triton import Triton


@dataclass(frozen=True, slots=True)
class Gateway:
    """Everything that lives as long as the app."""

    settings: Settings
    triton: Triton
    catalog: Catalog
    monitor: Monitor
    images: Images
    lines: Lines
    drain: Drain
    metrics: Metrics
    bodies: Bodies
    threads: Threads
    """For work that leaves the interpreter to others."""
    json_threads: Threads
    """For work on large JSON, which does not: the event loop shares the interpreter with no more of them."""


class State(TypedDict):
    """What a request carries beside itself."""

    gateway: Gateway
    request_id: str
    log: dict[str, Any]
    """Fields for its line in the log."""
    stages: Stages
    body: Body
    """How much of it has come in."""
    account: Account
    """Whose it is: tells keys apart, and gives none away."""
    presence: Presence
    write_error: Callable[[Any], Struct]
    """How its errors look."""


LITTLE = 2**16
"""Bytes of JSON, or numbers to write: a millisecond, and less than handing it to a thread costs a busy server."""
MIN_TOKENS = 8
"""That a text may be cut to, so that something is left between the special tokens."""
MAX_NAME = 64
"""Characters of an unknown field in headers and the log."""
UNSAFE = re.compile(r"[^A-Za-z0-9_.\[\]-]")
"""What could forge headers, or lines of a log."""

Truncation = Literal["NONE", "START", "END"]
"""Which end of a text over the limit to leave out, in Cohere's words and NIM's."""
TRUNCATIONS: Mapping[Truncation, Truncate] = {"NONE": "none", "START": "start", "END": "end"}

PromptTokens = Annotated[int, msgspec.Meta(ge=-1)]
"""How many tokens of a text to keep, in vLLM's words; see `prompt_tokens`."""
Side = Literal["left", "right"]
"""Where a text is cut, in vLLM's words and TEI's."""

Instruction = Annotated[str, msgspec.Meta(min_length=1, max_length=prompts.MAX_INSTRUCTION)]
"""What a model is told to do with texts."""

Request = StarletteRequest[State]
T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]


def with_deadline(endpoint: Endpoint) -> Endpoint:
    """Give an endpoint, reading the body included, no longer than the settings say."""

    async def timed(request: Request) -> Response:
        gateway = request.state["gateway"]
        timeout_s = gateway.settings.request_timeout_s
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                with (
                    gateway.drain.ends(deadline),
                    gateway.bodies.hold(request.state["account"].key) as body,
                    Presence(deadline) as presence,
                ):
                    request.state["body"] = body
                    request.state["presence"] = presence
                    return await endpoint(request)
        except TimeoutError as exc:
            if presence.is_gone:
                raise ClientGone("the client has hung up") from exc
            if gateway.drain.gave_up:
                raise NotReady("the server is stopping", headers={"connection": "close"}) from exc
            raise DeadlineExceeded(f"no answer within {timeout_s:g} s") from exc

    return timed


def caller(request: Request) -> Caller:
    """On whose behalf a request is answered; its body has been read."""
    state = request.state
    gateway = state["gateway"]
    state["presence"].begin(request.receive)
    return Caller(gateway.triton, gateway.lines, gateway.threads, state["account"], state["stages"])


def find_model(request: Request, name: str | None, roles: frozenset[str]) -> Model:
    """The model that a request names, noted for its line in the log; raises what `Catalog.find` does."""
    model = request.state["gateway"].catalog.find(name, roles)
    request.state["log"]["model"] = model.name
    return model


def find_model_for(request: Request, name: str | None, roles: frozenset[str]) -> tuple[Model, str | None]:
    """The model that a request names, and what its texts are for where the name ends in one of prompts.SUFFIXES."""
    try:
        return find_model(request, name, roles), None
    except ModelNotFound:
        for suffix in SUFFIXES:
            if name is not None and name.endswith(suffix):
                with suppress(ModelNotFound):
                    return find_model(request, name.removesuffix(suffix), roles), suffix.removeprefix("-")
        raise


def find_ranker(request: Request, name: str | None) -> TextTower:
    """The tower that ranks texts, of the model that a request names; raises what `Catalog.find` does."""
    model = find_model(request, name, RERANK_ROLES)
    if model.text is None:
        raise ModelNotFound(f"model {model.name!r} ranks no texts", param="model")
    return model.text


async def embed_items(
    request: Request,
    model: Model,
    items: Sequence[Item],
    *,
    purpose: str | None,
    place: str,
    truncate: Truncate,
    max_tokens: int | None = None,
    instruction: str | None = None,
) -> Embeddings:
    """Embed for a request, and note it in its line in the log.

    Args:
        request: whose body has been read.
        model: an embedding model.
        items: what to embed.
        purpose: what the texts are for; see `prompts`.
        place: the field that says so.
        truncate: what to do with texts over the limit.
        max_tokens: a limit below the model's own.
        instruction: in place of the one that the model's prompt has.

    Raises:
        GatewayError: what `prompts.choose` and `embed` do, or there is an instruction for a model of images.
    """
    gateway = request.state["gateway"]
    if instruction is not None and model.text is None:
        raise InvalidRequest(f"instruction: model {model.name!r} takes images only", param=prompts.FIELD)
    model = prompts.for_purpose(model, "query" if purpose is None and instruction is not None else purpose)
    embedded = await embed(
        caller(request),
        gateway.images,
        gateway.catalog.models,
        model,
        items,
        prompt=prompts.choose(model.text, purpose, place, instruction) if model.text is not None else "",
        truncate=truncate,
        max_tokens=max_tokens,
    )
    request.state["log"] |= {"inputs": len(items), "tokens": embedded.text_tokens + embedded.image_tokens}
    if images := sum(item.image is not None for item in items):
        request.state["log"]["images"] = images
    return embedded


async def read(request: Request, body_type: type[T]) -> T:
    """Read and validate a JSON body; raises what `receive` and `parse` do."""
    return await parse(request, await receive(request), body_type)


async def receive(request: Request) -> bytearray:
    """Read a body.

    Raises:
        UnsupportedEncoding: it is compressed.
        RequestTooLarge: it is over the limit, more than which is never held, or has more values than any request.
        Overloaded: there is no room for it beside the bodies of others.
    """
    encoding = ", ".join(request.headers.getlist("content-encoding")) or "identity"
    if encoding.lower() != "identity":
        raise UnsupportedEncoding(f"content-encoding is {encoding}; send the body as it is")
    gateway, held = request.state["gateway"], request.state["body"]
    limit = gateway.settings.max_body_bytes
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > limit:
            raise RequestTooLarge(f"the body is over {limit} bytes")
        held.grow(len(chunk))
        body += chunk
    return body


async def parse(request: Request, body: bytearray, body_type: type[T]) -> T:
    """Validate a JSON body, and note the fields that are unknown.

    Raises:
        RequestTooLarge: it has more values than any request.
        InvalidRequest: what `decode` and `ignore` raise it for.
    """
    with request.state["stages"].stage("parse"):
        if len(body) <= LITTLE:
            parsed, ignored = decode(body, body_type)
        else:
            threads = request.state["gateway"].json_threads
            parsed, ignored = await threads.run(request.state["account"], partial(decode, body, body_type))
    ignore(request, ignored)
    return parsed


def ignore(request: Request, fields: Ignored) -> None:
    """Note fields that are unknown, for the answer's header and the line in the log.

    Raises:
        InvalidRequest: there is one, and the settings say that it is an error.
    """
    if not fields:
        return
    if not request.state["gateway"].settings.ignores_unknown_fields:
        place = next(iter(fields.values()))
        raise InvalidRequest(f"unknown field {quoted(place)}", param=place)
    noted: list[str] = request.state["log"].setdefault(IGNORED_FIELDS, [])
    noted += [UNSAFE.sub("?", name[:MAX_NAME]) for name in islice(fields, MAX_IGNORED - len(noted))]


def prompt_tokens(
    asked: int | None, side: Side | None, truncate: Truncate, *, is_refused: bool
) -> tuple[Truncate, int | None]:
    """What truncate_prompt_tokens and truncation_side make of what is done with texts over the limit.

    Args:
        asked: how many tokens to keep; -1 are as many as the model takes.
        side: where to cut.
        truncate: what else is asked for.
        is_refused: whether it is said outright that nothing may be cut.

    Returns:
        What to do, and a limit beside the model's own.

    Raises:
        InvalidRequest: these contradict each other, or nothing of a text would be left.
    """
    if asked is not None and is_refused:
        raise InvalidRequest(
            "truncate_prompt_tokens cuts what truncate says must not be cut; send one of them",
            param="truncate_prompt_tokens",
        )
    if asked is not None and 0 <= asked < MIN_TOKENS:
        raise InvalidRequest(
            f"truncate_prompt_tokens is {asked}; it must be {MIN_TOKENS} or more, or -1 for the model's limit",
            param="truncate_prompt_tokens",
        )
    if asked is not None and truncate == "none":
        truncate = "end"
    if side is not None and truncate != "none":
        truncate = "start" if side == "left" else "end"
    return truncate, asked if asked != -1 else None


def rename(body: Struct, names: Mapping[str, str]) -> None:
    """Move what came in fields by other names into those that are read.

    Args:
        body: whose fields are None where nothing came.
        names: read ones, by the others.

    Raises:
        InvalidRequest: both came.
    """
    for other, name in names.items():
        given = getattr(body, other)
        if given is not None and getattr(body, name) is not None:
            raise InvalidRequest(f"{name} and {other} say the same; send one of them", param=other)
        if given is not None:
            setattr(body, name, given)


def answer(content: object, status: int = 200) -> Response:
    """Write a JSON response."""
    return Response(msgspec.json.encode(content), status, media_type="application/json")


async def answer_much(request: Request, make: Callable[[], object], numbers: int = 0) -> Response:
    """Write a JSON response that may be large.

    Args:
        request: whose body has been read, of which the response may hold the texts.
        make: gives the content.
        numbers: how many the content holds.
    """
    size = max(request.state["body"].size, numbers)
    if size <= LITTLE:
        return answer(make())
    threads = request.state["gateway"].json_threads
    written = await threads.run(request.state["account"], lambda: large_json.encode(make()))
    return Response(written, media_type="application/json")
