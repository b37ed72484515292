"""ASGI middleware: request id and log line, error dialect, drain guard, authentication and rate limit."""

import logging
import random
import re
import time
from collections.abc import Mapping, Set

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.access.keys import Keys
from gateway.access.origins import is_cross_site
from gateway.access.quota import Quotas
from gateway.budget import Budget
from gateway.drain import Drain
from gateway.error_body import ErrorFormat
from gateway.errors import ForbiddenOrigin, InvalidKey, NotReady
from gateway.scheduling.turns import Account
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.record import RequestRecord
from gateway.telemetry.spans import NO_SPANS, Spans
from gateway.telemetry.timings import Timings

log = logging.getLogger("gateway.request")

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""Request ids accepted from clients. Others could forge log lines."""
TOKENS_PER_CPU_SECOND = 1000
"""A request costs at least this many tokens of quota per second of CPU time spent on decoding and tokenizing. Real text
is tokenized 100 times faster; a photograph takes 10 to 100 ms to decode."""
MAX_PATH = 200
"""Maximum length of a logged path in characters."""
PROBES = frozenset({"/health", "/health/live", "/health/ready", "/metrics"})
"""Paths that are polled about every second. They are logged at debug level, unless they fail."""


class RequestLog:
    """Gives each request an id and a record, and counts and logs it at its end. No input text is logged. Outermost."""

    def __init__(self, app: ASGIApp, metrics: Metrics, spans: Spans) -> None:
        self.app = app
        self.metrics = metrics
        self.spans = spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_probe = scope["path"] in PROBES
        spans = NO_SPANS if is_probe else self.spans
        given = headers.get("x-request-id", "")
        record = RequestRecord(
            request_id=given if REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}",
            method=scope["method"],
            path=scope["path"][:MAX_PATH],
            route=self.metrics.route(scope["path"]),
            timings=Timings(spans),
        )
        scope.setdefault("state", {})["record"] = record
        started = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                added = {"x-request-id": record.request_id}
                if record.ignored_fields:
                    added["x-conch-ignored-fields"] = ", ".join(record.ignored_fields)
                _add_headers(message, added)
            await send(message)

        with spans.request(f"{record.method} {record.route}", headers):
            try:
                await self.app(scope, receive, send_with_id)
            except Exception:
                # Starlette has sent a 500 and re-raises for uvicorn to log, but the error is logged already.
                if not record.status:
                    raise
            finally:
                if record.timings.times:
                    record.timings.end("reply", record.timings.ended_at)
                record.duration_s = time.perf_counter() - started
                self._close(record, spans, is_probe=is_probe)

    def _close(self, record: RequestRecord, spans: Spans, *, is_probe: bool) -> None:
        self.metrics.count(record)
        fields = record.log_fields()
        spans.describe(record.route, fields)
        is_routine = is_probe and record.status in (200, 503)
        level = logging.DEBUG if is_routine else logging.INFO
        log.log(level, "request", extra={"fields": {**fields, **spans.ids()}})


class SelectErrorFormat:
    """Selects the error format of an API. Outside all middleware that may raise errors."""

    def __init__(self, app: ASGIApp, error_format: ErrorFormat) -> None:
        self.app = app
        self.error_format = error_format

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["error_format"] = self.error_format
        await self.app(scope, receive, send)


class Authenticate:
    """Requires a valid API key. If the server has no keys, refuses only requests from web pages of other sites."""

    def __init__(self, app: ASGIApp, keys: Keys, origins: Set[str] = frozenset()) -> None:
        """Guard an app.

        Args:
            app: receives the accepted requests.
            keys: the valid API keys.
            origins: web origins treated as the server's own; "*" for all.
        """
        self.app = app
        self.keys = keys
        self.origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["state"]["account"] = Account(self._key(Headers(scope=scope)))
        await self.app(scope, receive, send)

    def _key(self, headers: Headers) -> str:
        if self.keys.required:
            return self._owner(headers)
        if is_cross_site(headers, self.origins):
            raise ForbiddenOrigin(
                "this server has no API keys, so it accepts requests only from its own pages and by a local host name;"
                " set GATEWAY_API_KEYS or GATEWAY_CORS_ORIGINS"
            )
        return ""

    def _owner(self, headers: Headers) -> str:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            key = headers.get("api-key", "")  # the header of Azure's clients
        if not key:
            raise InvalidKey("an API key is required: send it as Authorization: Bearer YOUR_API_KEY")
        owner = self.keys.owner(key.strip(" \t").encode("latin-1"))  # the bytes as sent
        if owner is None:
            raise InvalidKey("invalid API key")
        return owner


class RateLimit:
    """Enforces the quotas of each key. Inside Authenticate."""

    def __init__(self, app: ASGIApp, quotas: Quotas) -> None:
        self.app = app
        self.quotas = quotas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        account: Account = scope["state"]["account"]
        record: RequestRecord = scope["state"]["record"]
        key = account.key
        self.quotas.admit(key)

        async def send_with_quota(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.quotas.count_tokens(key, charged_tokens(record, account))
                _add_headers(message, self.quotas.headers(key))
            await send(message)

        await self.app(scope, receive, send_with_quota)


class HoldResponse:
    """Frees the memory of a response when it is sent. Inside Authenticate."""

    def __init__(self, app: ASGIApp, responses: Budget) -> None:
        self.app = app
        self.responses = responses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.responses.hold(scope["state"]["account"].key) as held:
            scope["state"]["response"] = held
            await self.app(scope, receive, send)


class DrainGuard:
    """Counts requests in flight, and refuses new ones while the gateway is stopping."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self.app = app
        self.drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.drain.began_at is not None:
            raise NotReady("the server is stopping", headers={"connection": "close"})
        self.drain.in_flight += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.drain.in_flight -= 1


def charged_tokens(record: RequestRecord, account: Account) -> int:
    """The tokens of quota that a request costs."""
    return max(record.computed_tokens, round(account.seconds * TOKENS_PER_CPU_SECOND))


def _add_headers(start: Message, headers: Mapping[str, str]) -> None:
    """Add headers that a response does not have yet, with names in lower case."""
    start["headers"] = [
        *start["headers"],
        *((name.encode(), value.encode("latin-1")) for name, value in headers.items()),
    ]
