"""What every route has: the gateway's state, the request's state, and JSON responses."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypedDict

import msgspec
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response

from gateway.catalog import Catalog
from gateway.drain import Drain
from gateway.error_body import Dialect
from gateway.errors import ClientGone, DeadlineExceeded, NotReady
from gateway.health import Monitor
from gateway.images.reader import Images
from gateway.routes import large_json
from gateway.routes.body_budget import Bodies, Body
from gateway.routes.presence import Presence
from gateway.scheduling.admission import Queues
from gateway.scheduling.threads import Threads
from gateway.scheduling.turns import Account
from gateway.settings import Settings
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.record import RequestRecord
from gateway.triton import Triton

SMALL = 2**16
"""Bytes of JSON, or numbers to write, that are handled on the event loop: at most a millisecond, which is less than
handing them to a thread costs a busy server."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """Everything that lives as long as the app."""

    settings: Settings
    triton: Triton
    catalog: Catalog
    monitor: Monitor
    images: Images
    queues: Queues
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
    record: RequestRecord
    body: Body
    """How much of the body has been received."""
    account: Account
    """Whose request it is. Tells keys apart without giving them away."""
    presence: Presence
    dialect: Dialect
    """The error format of the path's API."""


Request = StarletteRequest[State]
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


def json_response(content: object, status: int = 200) -> Response:
    """Write a JSON response."""
    return Response(msgspec.json.encode(content), status, media_type="application/json")


async def large_json_response(request: Request, make: Callable[[], object], numbers: int = 0) -> Response:
    """Write a JSON response that may be large.

    Args:
        request: whose body has been read, of which the response may hold the texts.
        make: gives the content.
        numbers: how many the content holds.
    """
    size = max(request.state["body"].size, numbers)
    if size <= SMALL:
        return json_response(make())
    threads = request.state["gateway"].json_threads
    written = await threads.run(request.state["account"], lambda: large_json.encode(make()))
    return Response(written, media_type="application/json")
