"""Sends large responses."""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.drain import Drain
from gateway.routes.large_json import Part

log = logging.getLogger(__name__)

PIECE_BYTES = 2**18
"""How much to send at a time: 0.1 ms of the event loop."""
GRACE_S = 30.0
BYTES_PER_S = 2**20
"""A client must read a response in GRACE_S, and at this rate in addition: until then it keeps memory from others."""


class LargeResponse(Response):
    """A body in parts, JSON by default. A piece is sent once the client has read most of those before it, and is then
    freed."""

    media_type = "application/json"

    def __init__(
        self,
        parts: Iterable[Part],
        drain: Drain,
        *,
        headers: Mapping[str, str] = MappingProxyType({}),
        media_type: str | None = None,
    ) -> None:
        self._parts = deque(parts)
        self._drain = drain
        self.size = sum(map(len, self._parts))
        """Bytes of the body."""
        super().__init__(headers={"content-length": str(self.size), **headers}, media_type=media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async with asyncio.timeout(GRACE_S + self.size / BYTES_PER_S) as deadline:
                with self._drain.ends(deadline):
                    for piece in _pieces(self._parts):
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                        await asyncio.sleep(0)  # others get their turn, and the transport sees whether the client reads
                    await send({"type": "http.response.body", "body": b""})
        except TimeoutError:  # the server closes the connection of an incomplete response
            log.warning("a client read its response too slowly, or the server is stopping")


def _pieces(parts: deque[Part]) -> Iterator[Part]:
    """Take all parts, and divide or join them to pieces of at most PIECE_BYTES."""
    run: list[Part] = []
    size = 0
    while parts:
        part = parts.popleft()
        if run and size + len(part) > PIECE_BYTES:
            yield b"".join(run)
            run, size = [], 0
        if len(part) <= PIECE_BYTES:
            run.append(part)
            size += len(part)
            continue
        view = memoryview(part)
        for start in range(0, len(part), PIECE_BYTES):
            yield view[start : start + PIECE_BYTES]
    if run:
        yield b"".join(run)
