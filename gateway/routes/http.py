"""What all routes share: the state of the app, reading a body, writing an answer."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar

import msgspec
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response

from gateway.catalog import Catalog, Model
from gateway.errors import DeadlineExceeded, InvalidRequest, RequestTooLarge
from gateway.health import Monitor
from gateway.images import Images
from gateway.settings import Settings
from gateway.triton import Triton


@dataclass(frozen=True, slots=True)
class Gateway:
    """Everything that lives as long as the app."""

    settings: Settings
    triton: Triton
    catalog: Catalog
    monitor: Monitor
    images: Images


class State(TypedDict):
    """What a request carries beside itself."""

    gateway: Gateway
    log: dict[str, Any]
    """Fields for its line in the log."""


Request = StarletteRequest[State]
Body = TypeVar("Body")
Endpoint = Callable[[Request], Awaitable[Response]]


def with_deadline(endpoint: Endpoint) -> Endpoint:
    """Give an endpoint, reading the body included, no longer than the settings say."""

    async def timed(request: Request) -> Response:
        timeout_s = request.state["gateway"].settings.request_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await endpoint(request)
        except TimeoutError as exc:
            raise DeadlineExceeded(f"no answer within {timeout_s:g} s") from exc

    return timed


def find_model(request: Request, name: str | None, roles: frozenset[str]) -> Model:
    """The model that a request names, noted for its line in the log; raises what `Catalog.find` does."""
    model = request.state["gateway"].catalog.find(name, roles)
    request.state["log"]["model"] = model.name
    return model


async def read(request: Request, body_type: type[Body]) -> Body:
    """Read and validate a JSON body.

    Raises:
        RequestTooLarge: it is over the limit, more than which is never held.
        InvalidRequest: not JSON, or not of this type; names the field.
    """
    limit = request.state["gateway"].settings.max_body_bytes
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        else:  # taken and dropped: a client that is cut off while it sends sees a broken connection, not the answer
            chunks.clear()
    if size > limit:
        raise RequestTooLarge(f"the body is over {limit} bytes")
    return decode(b"".join(chunks), body_type)


def decode(body: bytes, body_type: type[Body]) -> Body:
    """Parse JSON into a type; msgspec's messages end in the place: "... - at `$.input[0]`"."""
    try:
        return msgspec.json.decode(body, type=body_type)
    except msgspec.ValidationError as exc:
        message, _, place = str(exc).partition(" - at `$")
        path = place.rstrip("`").removeprefix(".")
        unknown = message.removeprefix("Object contains unknown field `").rstrip("`")
        if unknown != message.rstrip("`"):
            path = f"{path}.{unknown}".removeprefix(".")
            message = f"unknown field {path!r}"
        elif path:
            message = f"{path}: {message}"
        raise InvalidRequest(message, param=path or None) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"the body is not valid JSON: {exc}") from exc


def answer(content: msgspec.Struct, status: int = 200) -> Response:
    """Write a JSON response."""
    return Response(msgspec.json.encode(content), status, media_type="application/json")
