"""The state of the gateway and of a request, deadlines, and JSON responses."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypedDict

import msgspec
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response

from gateway.budget import Budget, Held
from gateway.cache import Cache
from gateway.catalog import Catalog
from gateway.drain import Drain
from gateway.error_body import ErrorFormat
from gateway.errors import ClientGone, DeadlineExceeded, NotReady
from gateway.health import Monitor
from gateway.images.reader import Images
from gateway.jobs.store import Store
from gateway.routes import large_json
from gateway.routes.large_response import LargeResponse
from gateway.routes.presence import Presence
from gateway.scheduling.admission import Queues
from gateway.scheduling.threads import Threads
from gateway.scheduling.turns import Account
from gateway.service.shared_calls import SharedCalls
from gateway.settings import Settings
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.record import RequestRecord
from gateway.triton import Triton

OCTETS = "application/octet-stream"
SMALL = 2**16
"""The largest body in bytes, and the most numbers to write, that are handled on the event loop. This takes at most a
millisecond, less than handing the work to a thread costs a busy server."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """The services that live as long as the app."""

    settings: Settings
    triton: Triton
    calls: SharedCalls
    catalog: Catalog
    monitor: Monitor
    images: Images
    queues: Queues
    drain: Drain
    metrics: Metrics
    bodies: Budget
    threads: Threads
    """For work that releases the interpreter lock."""
    json_threads: Threads
    """For parsing and writing large JSON, which holds the interpreter lock. There are few, to keep the event loop
    responsive."""
    cache: Cache | None
    """None if it is off."""
    store: Store | None = None
    """The files and batches; None if they are off."""


class State(TypedDict):
    """The state of a request."""

    gateway: Gateway
    record: RequestRecord
    body: Held
    """How much of the body has been received."""
    response: Held
    """The memory of the response, from before it is computed until it is sent."""
    account: Account
    """The owner of the request's API key, which identifies the key without revealing it."""
    presence: Presence
    error_format: ErrorFormat
    """The error format of the path's API."""


Request = StarletteRequest[State]
Endpoint = Callable[[Request], Awaitable[Response]]


def with_deadline(endpoint: Endpoint, limit_s: float | None = None) -> Endpoint:
    """Limit the time of an endpoint, including the time to read the body: to that of the settings by default."""

    async def timed(request: Request) -> Response:
        gateway = request.state["gateway"]
        timeout_s = gateway.settings.request_timeout_s if limit_s is None else limit_s
        try:
            async with asyncio.timeout(None) as deadline:
                with (
                    gateway.drain.ends(deadline),
                    gateway.bodies.hold(request.state["account"].key) as body,
                    Presence(deadline, timeout_s) as presence,
                ):
                    request.state["body"] = body
                    request.state["presence"] = presence
                    return await endpoint(request)
        except TimeoutError as exc:
            if presence.is_gone:
                raise ClientGone("the client disconnected") from exc
            if gateway.drain.gave_up:
                raise NotReady("the server is stopping", headers={"connection": "close"}) from exc
            raise DeadlineExceeded(f"no response within {timeout_s:g} s") from exc

    return timed


def json_response(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


async def large_json_response(request: Request, build: Callable[[], object], numbers: int = 0) -> Response:
    """Write a JSON response, in a thread if it may be large.

    Args:
        request: its body has been read. The response may repeat its texts.
        build: returns the content.
        numbers: how many numbers the content holds.

    Raises:
        GatewayError: Overloaded or RequestTooLarge, if the response needs more memory than there is.
    """
    size = max(request.state["body"].size, numbers)
    if size <= SMALL:
        return json_response(build())
    gateway = request.state["gateway"]
    parts = await gateway.json_threads.run(request.state["account"], lambda: large_json.encode(build()))
    response = LargeResponse(parts, gateway.drain)
    request.state["response"].resize(response.size)
    return response


async def large_bytes_response(
    request: Request, build: Callable[[], tuple[list[bytes], dict[str, str]]], numbers: int
) -> Response:
    """Write a response that is no JSON, in a thread if it may be large.

    Args:
        request: its body has been read.
        build: returns the parts of the body, and headers.
        numbers: how many numbers the body holds.

    Raises:
        GatewayError: Overloaded or RequestTooLarge, if the response needs more memory than there is.
    """
    if numbers <= SMALL:
        parts, headers = build()
        return Response(b"".join(parts), headers=headers, media_type=OCTETS)
    gateway = request.state["gateway"]
    parts, headers = await gateway.json_threads.run(request.state["account"], build)
    response = LargeResponse(parts, gateway.drain, headers=headers, media_type=OCTETS)
    request.state["response"].resize(response.size)
    return response
