"""Builds the ASGI application."""

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence, Set
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import ASGIApp

from gateway.access.keys import Keys
from gateway.access.quota import Quotas
from gateway.board import Board
from gateway.budget import Budget
from gateway.cache import Cache
from gateway.catalog import Catalog
from gateway.drain import Drain
from gateway.error_body import ErrorFormat
from gateway.errors import GatewayError
from gateway.gauges import gauges
from gateway.health import Monitor
from gateway.images.reader import Images
from gateway.jobs.runner import Answer, Runner
from gateway.jobs.store import Limits, Store
from gateway.middleware import (
    Authenticate,
    DrainGuard,
    HoldResponse,
    RateLimit,
    RequestLog,
    SelectErrorFormat,
    charged_tokens,
)
from gateway.routes import errors, in_process, openapi, packing, pages, tei
from gateway.routes.http import Gateway, Request, with_deadline
from gateway.routes.lookup import Lookup
from gateway.routes.metrics import show as show_metrics
from gateway.routes.operation import Dialect, Operation
from gateway.routes.table import DIALECTS, DOCUMENTED, IN_BATCHES, SPOKEN
from gateway.scheduling import cores
from gateway.scheduling.admission import Queues
from gateway.scheduling.threads import Threads
from gateway.scheduling.turns import Account
from gateway.service.shared_calls import SharedCalls
from gateway.settings import Settings
from gateway.telemetry.metrics import Gauge, Metrics
from gateway.telemetry.record import RequestRecord
from gateway.telemetry.spans import NO_SPANS, Spans
from gateway.triton import Triton

log = logging.getLogger(__name__)

EXPOSED = (
    "x-request-id",
    "x-conch-ignored-fields",
    "retry-after",
    packing.METADATA,
    *tei.HEADERS,
    *(f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in ("requests", "tokens")),
)
"""Response headers that web pages of other origins may read (CORS)."""
PUBLISH_S = 1.0
"""How old the gauges of other workers are at most."""
FREE_BODY_BYTES = 64 * 2**10
"""This much of each body is not counted, so that small requests are always accepted."""
FREE_RESPONSE_BYTES = 2**20
"""The same for responses. Smaller ones are written on the event loop."""
LARGEST_RESPONSE_BYTES = 384 * 2**20
"""What the largest response needs: `embed.MAX_TOKEN_NUMBERS`, and a dense and a sparse vector for each input."""
BATCH_REQUEST_S = 600.0
"""How long a request of a batch may take: it waits for all others."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
Guards = Callable[[ErrorFormat], list[Middleware]]


def create_app(settings: Settings, drain: Drain, spans: Spans = NO_SPANS, board: Board | None = None) -> ASGIApp:
    """Build the ASGI application. It starts even if Triton is not there, and is then not ready.

    Args:
        settings: the gateway's settings.
        drain: shutdown state, controlled by the server.
        spans: records traces.
        board: shared with other workers.
    """
    board = board or Board()
    metrics = Metrics({operation.path for operation, _ in DOCUMENTED}, board)
    keys = Keys(settings.api_keys, settings.api_keys_file)
    authenticate = Middleware(Authenticate, keys=keys, origins=settings.cors_origins)
    quotas = Quotas({"requests": settings.requests_per_minute, "tokens": settings.tokens_per_minute}, board)
    rate_limit = [Middleware(RateLimit, quotas=quotas)] if quotas.enabled else []
    most = settings.max_responses_bytes
    responses = Budget("responses", most, min(most, max(most // 2, LARGEST_RESPONSE_BYTES)), FREE_RESPONSE_BYTES, board)
    hold_response = Middleware(HoldResponse, responses=responses)

    def guards(error_format: ErrorFormat) -> list[Middleware]:
        speak = Middleware(SelectErrorFormat, error_format=error_format)
        return [speak, Middleware(DrainGuard, drain=drain), authenticate, *rate_limit, hold_response]

    requests = _app([Lookup(_in_batches(hold_response))])

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Gateway]]:
        async with (
            _running(settings, drain, spans, metrics, board) as gateway,
            _running_batches(requests, gateway, quotas),
        ):
            yield {"gateway": gateway}

    app = _app(
        [
            *_api_routes(guards),
            Route("/openapi.json", openapi.show),
            Route("/metrics", show_metrics, middleware=[authenticate]),
            *(pages.routes() if settings.pages else (Route("/", pages.running),)),
        ],
        lifespan,
    )
    return RequestLog(_with_cors(app, settings.cors_origins), metrics, spans)


def _app(routes: Sequence[BaseRoute], lifespan: Callable[[Starlette], Any] | None = None) -> Starlette:
    app = Starlette(
        routes=routes,
        exception_handlers={
            GatewayError: errors.gateway_error,
            HTTPException: errors.http_exception,
            ClientDisconnect: errors.client_disconnect,
            Exception: errors.internal_error,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # redirects are not JSON, and echo the client's Host header
    return app


def _in_batches(hold_response: Middleware) -> Iterator[Route]:
    """The routes for requests of batches. What guards others was done for the batch, or is done by its runner."""
    for path, (operation, dialect) in IN_BATCHES.items():
        middleware = [Middleware(SelectErrorFormat, error_format=dialect.error_format), hold_response]
        yield Route(path, with_deadline(operation.endpoint, BATCH_REQUEST_S), methods=["POST"], middleware=middleware)


@asynccontextmanager
async def _running_batches(app: ASGIApp, gateway: Gateway, quotas: Quotas) -> AsyncIterator[None]:
    """Run the batches in the background, if there is a folder for them."""
    if gateway.store is None:
        yield
        return

    async def execute(key: str, endpoint: str, body: bytes) -> Answer:
        request_id = f"{random.getrandbits(128):032x}"
        record = RequestRecord(request_id=request_id, method="POST", path=endpoint, route=endpoint)
        account = Account(f"batches {key}", is_background=True)
        reply = await in_process.post(app, gateway, record, body, account)
        record.status = reply.status
        gateway.metrics.count_in_batch(record)
        if quotas.enabled:
            quotas.count_tokens(key, charged_tokens(record, account))
        return Answer(reply.status, request_id, bytes(reply.body), reply.is_json)

    def is_ready() -> bool:
        problem = gateway.monitor.problem()
        return problem is None or problem.code == "model_unresponsive"  # which may be another model

    line_bytes = gateway.settings.max_body_bytes
    runner = Runner(gateway.store, execute, gateway.drain, is_ready, quotas.background_delay_s, line_bytes)
    gateway.metrics.watch([Gauge("conch_batches_running", "Batches being run.", "", sum, lambda: {"": runner.running})])
    running = asyncio.create_task(runner.run())
    yield
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


def _with_cors(app: ASGIApp, origins: Set[str]) -> ASGIApp:
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("*",),
        allow_credentials="*" not in origins,
        allow_private_network=True,
        expose_headers=EXPOSED,
    )


@asynccontextmanager
async def _running(
    settings: Settings, drain: Drain, spans: Spans, metrics: Metrics, board: Board
) -> AsyncIterator[Gateway]:
    """Open the state that all requests share, and close it in the right order."""
    triton = Triton(settings.triton_urls, settings.request_timeout_s, spans)
    calls = SharedCalls(triton)
    cache = Cache(settings.cache_bytes // board.workers, metrics.count_evictions) if settings.cache_bytes else None
    catalog = Catalog(triton, settings.model_repository, tells_apart=cache is not None)
    queues = Queues(settings.request_timeout_s, board)
    threads = Threads(max(1, cores.count() // board.workers), spare=2)
    json_threads = Threads(1, spare=1)
    monitor = Monitor(triton, catalog, queues, threads, drain, board)
    images = Images(settings.max_image_pixels, settings.image_hosts, board)
    most_per_key = max(settings.max_bodies_bytes // 2, settings.max_body_bytes)
    bodies = Budget("request bodies", settings.max_bodies_bytes, most_per_key, FREE_BODY_BYTES, board)
    store = None
    if settings.batch_folder is not None:
        limits = Limits(settings.batch_file_bytes, settings.batch_bytes_per_key, settings.batch_bytes)
        store = Store(settings.batch_folder, limits, frozenset(IN_BATCHES))
    metrics.watch(gauges(triton, catalog, queues, monitor, drain, board, cache))
    watch = asyncio.gather(monitor.run(), *([_publish(metrics)] if board.workers > 1 else []))
    await monitor.first_check()
    yield Gateway(
        settings,
        triton,
        calls,
        catalog,
        monitor,
        images,
        queues,
        drain,
        metrics,
        bodies,
        threads,
        json_threads,
        cache,
        store,
    )
    watch.cancel()
    with suppress(asyncio.CancelledError):
        await watch
    await images.close()
    await asyncio.to_thread(threads.close)
    await asyncio.to_thread(json_threads.close)
    await triton.close()
    await asyncio.to_thread(spans.close)  # waits for the trace collector


async def _publish(metrics: Metrics) -> None:
    """Tell the other workers, which may be scraped, the state of this one; no exception stops this."""
    while True:
        try:
            metrics.publish()
        except Exception:
            log.exception("publishing metrics failed")
        await asyncio.sleep(PUBLISH_S)


def _api_routes(guards: Guards) -> Iterator[BaseRoute]:
    """All routes, in the order in which they are tried."""

    def guarded(operation: Operation, dialect: Dialect) -> Route:
        middleware = guards(dialect.error_format) if operation.needs_key else ()
        return _route(operation, operation.path, middleware)

    whole = [(operation, dialect) for operation, dialect in SPOKEN if "{" not in operation.path]
    allowed: dict[str, set[str]] = defaultdict(set)
    for operation, _ in whole:
        allowed[operation.path] |= {operation.method.upper(), *(["HEAD"] if operation.method == "get" else [])}
    refusals = (
        _refusal(operation.path, allowed[operation.path], guards(dialect.error_format) if operation.needs_key else ())
        for operation, dialect in {operation.path: (operation, dialect) for operation, dialect in whole}.values()
        if operation.path != "/"  # which pages answer
    )
    yield Lookup((guarded(operation, dialect) for operation, dialect in whole), refusals)
    prefixes = {prefix: dialect for dialect in DIALECTS for prefix in dialect.prefixes}
    below: dict[str, list[BaseRoute]] = {prefix: [] for prefix in prefixes}
    others: list[BaseRoute] = []
    for operation, dialect in SPOKEN:
        prefix = next((one for one in prefixes if operation.path.startswith(f"{one}/")), "")
        if prefix and dialect is prefixes[prefix]:
            below[prefix].append(_route(operation, operation.path.removeprefix(prefix)))
        elif prefix:
            yield guarded(operation, dialect)
        else:
            others.append(guarded(operation, dialect))
    for prefix, routes in below.items():
        middleware = guards(prefixes[prefix].error_format)
        yield Mount(prefix, Router(routes, redirect_slashes=False), middleware=middleware)
    yield from others


def _refusal(path: str, allowed: Set[str], middleware: Sequence[Middleware]) -> Route:
    """Refuses the other methods of a path, in its own dialect."""

    async def refuse(_: Request) -> Response:
        raise HTTPException(405, headers={"allow": ", ".join(sorted(allowed))})

    return Route(path, refuse, methods=sorted(METHODS - allowed), middleware=middleware)


def _route(operation: Operation, path: str, middleware: Sequence[Middleware] = ()) -> Route:
    endpoint = operation.endpoint
    if operation.method == "post":
        endpoint = with_deadline(endpoint, operation.deadline_s)
    return Route(path.replace("}", ":path}"), endpoint, methods=[operation.method.upper()], middleware=middleware)
