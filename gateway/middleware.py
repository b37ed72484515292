"""What happens around every request: its id and log line, and on /v1 the check of its key."""

import hashlib
import hmac
import logging
import re
import time
import uuid
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import InvalidKey

log = logging.getLogger("gateway.request")

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""What a client may choose for itself: anything else could forge lines of a log."""


MAX_PATH = 200
"""Characters of a path in the log."""


class RequestLog:
    """Outermost: gives each request an id and, when it is over, a line in the log without any input text."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        fields: dict[str, object] = {}
        scope.setdefault("state", {}).update(request_id=request_id, log=fields)
        status = 0
        started = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            # Starlette answers with 500 and raises again, for uvicorn to log what is logged already.
            if not status:
                raise
        finally:
            line = {
                "request_id": request_id,
                "method": scope["method"],
                "path": scope["path"][:MAX_PATH],
                "status": status,
                "duration_ms": round((time.perf_counter() - started) * 1e3, 1),
                **fields,
            }
            # Probes come every second or so, and say nothing that the health of the gateway's own log does not.
            level = logging.DEBUG if scope["path"].startswith("/health/") else logging.INFO
            log.log(level, "request", extra={"fields": line})


class Authorise:
    """Lets a request pass if it bears one of the keys, or if there are none."""

    def __init__(self, app: ASGIApp, keys: Iterable[str]) -> None:
        self.app = app
        self.digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or raise InvalidKey."""
        if scope["type"] == "http" and self.digests:
            self._check(Headers(scope=scope).get("authorization", ""))
        await self.app(scope, receive, send)

    def _check(self, authorization: str) -> None:
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise InvalidKey("send an API key: Authorization: Bearer YOUR_API_KEY")
        given = _digest(key.strip().encode("latin-1"))  # the bytes that were sent
        # Compares with every key, so that the time taken tells nothing of which one came near.
        if sum(hmac.compare_digest(given, digest) for digest in self.digests) == 0:
            raise InvalidKey("this API key is not one of the server's")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
