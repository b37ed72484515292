"""Puts the gateway together."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import ASGIApp

from gateway.access.keys import Keys
from gateway.access.quota import Quotas
from gateway.catalog import Catalog
from gateway.drain import Drain
from gateway.errors import GatewayError
from gateway.health import Monitor
from gateway.images.reader import Images
from gateway.middleware import Authorise, Limit, Refuse, RequestLog, Speak
from gateway.routes import cohere, embeddings, errors, health, models, nim, openapi, pages, rerank, tei
from gateway.routes.body_budget import Bodies
from gateway.routes.errors import WriteError
from gateway.routes.http import Endpoint, Gateway, with_deadline
from gateway.routes.metrics import show as show_metrics
from gateway.scheduling import cores
from gateway.scheduling.admission import Lines
from gateway.scheduling.threads import Threads
from gateway.settings import Settings
from gateway.telemetry.metrics import Metrics, State
from gateway.telemetry.spans import NO_SPANS, Spans
from gateway.triton import Triton

EXPOSED = (
    "x-request-id",
    "x-conch-ignored-fields",
    "retry-after",
    *tei.HEADERS,
    *(f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in ("requests", "tokens")),
)
"""Headers of answers that pages of other origins may read."""


def create_app(settings: Settings, drain: Drain, spans: Spans = NO_SPANS) -> ASGIApp:
    """The ASGI application. It starts, and says that it is not ready, whether Triton is there or not.

    Args:
        settings: of the gateway.
        drain: which the server begins.
        spans: of traces, if there are any.
    """
    metrics = Metrics({operation.path for operation in openapi.OPERATIONS})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Gateway]]:
        triton = Triton(settings.triton_urls, settings.request_timeout_s, spans)
        catalog = Catalog(triton, settings.model_repository)
        lines = Lines(settings.request_timeout_s)
        threads = Threads(cores.count(), spare=2)
        monitor = Monitor(triton, catalog, lines, threads, drain)
        images = Images(settings.max_image_pixels, settings.image_hosts)
        json_threads = Threads(1, spare=1)
        most_of_key = max(settings.max_bodies_bytes // 2, settings.max_body_bytes)
        bodies = Bodies(settings.max_bodies_bytes, most_of_key)
        watch = asyncio.create_task(monitor.run())
        metrics.watch(State(triton, catalog, lines, monitor, drain))
        yield {
            "gateway": Gateway(
                settings, triton, catalog, monitor, images, lines, drain, metrics, bodies, threads, json_threads
            )
        }
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
        await images.close()
        await asyncio.to_thread(threads.close)
        await asyncio.to_thread(json_threads.close)
        await triton.close()
        await asyncio.to_thread(spans.close)  # waits for the collector

    keys = Keys(settings.api_keys, settings.api_keys_file)
    quotas = Quotas({"requests": settings.requests_a_minute, "tokens": settings.tokens_a_minute})
    authorise = Middleware(Authorise, keys=keys, origins=settings.cors_origins)
    guards = [
        Middleware(Refuse, drain=drain),
        authorise,
        *([Middleware(Limit, quotas=quotas)] if quotas.are_any else []),
    ]

    def speaking(write_error: WriteError) -> list[Middleware]:
        return [Middleware(Speak, write_error=write_error), *guards]

    def posts(paths: Mapping[str, Endpoint], middleware: Sequence[Middleware] = ()) -> list[BaseRoute]:
        return [
            Route(path, with_deadline(endpoint), methods=["POST"], middleware=middleware)
            for path, endpoint in paths.items()
        ]

    def shared(middleware: Sequence[Middleware] = ()) -> list[BaseRoute]:
        return [
            *posts({"/embeddings": embeddings.create}, middleware),
            Route("/models", models.list_models, middleware=middleware),
            Route("/models/{id:path}", models.retrieve, middleware=middleware),
        ]

    v1 = [*shared(), *posts({"/rerank": rerank.create, "/ranking": nim.create})]
    azure = [
        *posts({"/deployments/{model:path}/embeddings": embeddings.create_for_deployment}),
        Mount("/v1", Router(shared(), redirect_slashes=False)),
    ]
    v2 = posts({"/embed": cohere.create_embeddings, "/rerank": cohere.create_ranking})
    starlette = Starlette(
        routes=[
            *posts({"/v1/embed": cohere.create_v1_embeddings}, speaking(cohere.write_error)),
            Mount("/v1", Router(v1, redirect_slashes=False), middleware=speaking(errors.openai)),
            *shared(speaking(errors.openai)),
            Mount("/openai", Router(azure, redirect_slashes=False), middleware=speaking(errors.openai)),
            Mount("/v2", Router(v2, redirect_slashes=False), middleware=speaking(cohere.write_error)),
            *posts(tei.ROUTES | tei.MISSING, speaking(tei.write_error)),
            Route("/info", tei.info, middleware=speaking(tei.write_error)),
            Route("/health", health.ready),
            Route("/health/live", health.live),
            Route("/health/ready", health.ready),
            Route("/openapi.json", openapi.show),
            Route("/metrics", show_metrics, middleware=[authorise]),
            *(pages.routes() if settings.pages else ()),
        ],
        exception_handlers={
            GatewayError: errors.gateway_error,
            HTTPException: errors.http_exception,
            ClientDisconnect: errors.client_disconnect,
            Exception: errors.internal_error,
        },
        lifespan=lifespan,
    )
    starlette.router.redirect_slashes = False  # a redirect is no JSON, and says what the client's Host header said
    app: ASGIApp = starlette
    if settings.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            allow_credentials="*" not in settings.cors_origins,
            allow_private_network=True,
            expose_headers=EXPOSED,
        )
    return RequestLog(app, metrics, spans)
