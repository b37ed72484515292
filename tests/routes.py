"""The routes that the gateway has."""

from collections.abc import Iterator, Sequence

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, Route

from gateway.app import create_app
from gateway.drain import Drain
from gateway.routes.lookup import Lookup
from gateway.settings import Settings


def served() -> set[tuple[str, str]]:
    """Methods in lower case and paths, as OpenAPI writes them."""
    app = create_app(Settings(), Drain())
    while not isinstance(app, Starlette):  # behind middleware
        app = app.app  # type: ignore[attr-defined]
    return set(walk(app.routes))


def walk(routes: Sequence[BaseRoute], above: str = "") -> Iterator[tuple[str, str]]:
    """All routes, those of mounted routers included."""
    for route in routes:
        if isinstance(route, Mount):
            yield from walk(route.routes, above + route.path)
        elif isinstance(route, Lookup):
            yield from walk(route.routes, above)
        else:
            assert isinstance(route, Route)
            for method in (route.methods or set()) - {"HEAD"}:
                yield method.lower(), above + route.path_format
