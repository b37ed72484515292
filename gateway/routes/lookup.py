"""Finds the routes whose path has no parameters at once; Starlette tries one route after the other."""

from collections.abc import Iterable

from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send


class Lookup(BaseRoute):
    """Many routes as one, for the first place in a router. It does not refuse other methods of their paths."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = [*routes]
        self._apps = {(method, route.path): route.app for route in self.routes for method in route.methods or ()}

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        is_known = scope["type"] == "http" and (scope["method"], scope["path"]) in self._apps
        return (Match.FULL if is_known else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._apps[scope["method"], scope["path"]](scope, receive, send)
