"""What happens around every request: its id and log line, and on /v1 the check of its key and of its quota."""

import logging
import random
import re
import time
from collections.abc import Callable, Set
from typing import Any

from msgspec import Struct
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.access.keys import Keys
from gateway.access.origins import is_other
from gateway.access.quota import Quotas
from gateway.drain import Drain
from gateway.errors import InvalidKey, NotReady, OtherSite
from gateway.scheduling.turns import Account
from gateway.telemetry.metrics import IGNORED_FIELDS, Metrics
from gateway.telemetry.spans import NO_SPANS, Spans
from gateway.telemetry.timings import Stages

log = logging.getLogger("gateway.request")

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""What a client may choose for itself: anything else could forge lines of a log."""


TOKENS_A_SECOND = 1000
"""Of CPU time for decoding and tokenising: a request counts for so many where its own tokens are fewer. Usual text is
tokenised a hundred times as fast, and a photograph decoded in 10 to 100 ms."""
MAX_PATH = 200
"""Characters of a path in the log."""
PROBES = frozenset({"/health", "/health/live", "/health/ready", "/metrics"})
"""What comes every second or so, and says nothing that the gateway's own log does not, unless it is refused."""


class RequestLog:
    """Outermost: gives each request an id, and when it is over has it counted and a line in the log, without any input
    text."""

    def __init__(self, app: ASGIApp, metrics: Metrics, spans: Spans) -> None:
        self.app = app
        self.metrics = metrics
        self.spans = spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_probe = scope["path"] in PROBES
        spans = NO_SPANS if is_probe else self.spans
        route = self.metrics.route(scope["path"])
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
        fields: dict[str, Any] = {}
        stages = Stages(spans)
        scope.setdefault("state", {}).update(request_id=request_id, log=fields, stages=stages)
        status = 0
        started = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers_sent = MutableHeaders(scope=message)
                headers_sent["x-request-id"] = request_id
                if IGNORED_FIELDS in fields:
                    headers_sent["x-conch-ignored-fields"] = ", ".join(fields[IGNORED_FIELDS])
            await send(message)

        with spans.request(f"{scope['method']} {route}", headers):
            try:
                await self.app(scope, receive, send_with_id)
            except Exception:
                # Starlette answers with 500 and raises again, for uvicorn to log what is logged already.
                if not status:
                    raise
            finally:
                if stages.times:
                    stages.end("reply", stages.ended_at)
                seconds = time.perf_counter() - started
                self.metrics.count(route, status, seconds, stages, fields)
                line = {
                    "request_id": request_id,
                    **spans.ids(),
                    "method": scope["method"],
                    "path": scope["path"][:MAX_PATH],
                    "status": status,
                    "duration_ms": round(seconds * 1e3, 1),
                    **fields,
                }
                spans.describe(route, line)
                quiet = is_probe and status in (200, 503)
                log.log(logging.DEBUG if quiet else logging.INFO, "request", extra={"fields": line})


class Speak:
    """Has errors written as an API has them. Outside of all that can fail."""

    def __init__(self, app: ASGIApp, write_error: Callable[[Any], Struct]) -> None:
        self.app = app
        self.write_error = write_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        scope["state"]["write_error"] = self.write_error
        await self.app(scope, receive, send)


class Authorise:
    """Lets a request pass if it bears one of the keys; if there are none, unless a page of another site asks."""

    def __init__(self, app: ASGIApp, keys: Keys, origins: Set[str] = frozenset()) -> None:
        """Let requests in.

        Args:
            app: behind this.
            keys: of the server.
            origins: whose pages count as the server's own; "*" are all.
        """
        self.app = app
        self.keys = keys
        self.origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or raise InvalidKey, or OtherSite."""
        if scope["type"] == "http":
            scope["state"]["account"] = Account(self._key(Headers(scope=scope)))
        await self.app(scope, receive, send)

    def _key(self, headers: Headers) -> str:
        if self.keys.are_asked_for:
            return self._owner(headers)
        if is_other(headers, self.origins):
            raise OtherSite(
                "this server has no API keys, so it answers no pages of other sites, and to local names only"
            )
        return ""

    def _owner(self, headers: Headers) -> str:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            key = headers.get("api-key", "")  # as Azure's clients send it
        if not key:
            raise InvalidKey("send an API key: Authorization: Bearer YOUR_API_KEY")
        owner = self.keys.owner(key.strip(" \t").encode("latin-1"))  # the bytes that were sent
        if owner is None:
            raise InvalidKey("this API key is not one of the server's")
        return owner


class Limit:
    """Keeps keys within their quotas. Behind the check of the key."""

    def __init__(self, app: ASGIApp, quotas: Quotas) -> None:
        self.app = app
        self.quotas = quotas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or raise QuotaExceeded."""
        account: Account = scope["state"]["account"]
        key = account.key
        self.quotas.check(key)
        self.quotas.count(key, "requests", 1)

        async def send_with_quota(message: Message) -> None:
            if message["type"] == "http.response.start":
                state = scope["state"]
                computed = sum(tokens for _, _, tokens in state["stages"].parts)  # also where the answer is an error
                worked = round(account.seconds * TOKENS_A_SECOND)
                self.quotas.count(key, "tokens", max(state["log"].get("tokens", computed), worked))
                MutableHeaders(scope=message).update(self.quotas.headers(key))
            await send(message)

        await self.app(scope, receive, send_with_quota)


class Refuse:
    """Counts requests, and refuses those that come while the gateway is stopping."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self.app = app
        self.drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or raise NotReady."""
        if self.drain.began_at is not None:
            raise NotReady("the server is stopping", headers={"connection": "close"})
        self.drain.under_way += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.drain.under_way -= 1
