"""Finds the routes whose path has no parameters at once; Starlette tries one route after the other."""

from collections.abc import Iterable

from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send


class Lookup(BaseRoute):
    """Many routes as one, for the first place in a router."""

    def __init__(self, routes: Iterable[Route], refusals: Iterable[Route] = ()) -> None:
        """Find these.

        Args:
            routes: each with another path or method.
            refusals: what answers the other methods of these paths.
        """
        self.routes = [*routes]
        found = [*self.routes, *refusals]
        self._apps = {(method, route.path): route.app for route in found for method in route.methods or ()}

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        is_known = scope["type"] == "http" and (scope["method"], scope["path"]) in self._apps
        return (Match.FULL if is_known else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._apps[scope["method"], scope["path"]](scope, receive, send)
