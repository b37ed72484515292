"""HTTP on a connection: uvicorn's, with limits on what comes before a request is one."""

import asyncio
import re
from http import HTTPStatus
from typing import cast

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.routes.errors import ErrorObject, ErrorResponse

HEAD_BYTES = 64 * 2**10
"""Of a request's line and headers, as they come in; what comes in one piece with their end is not counted."""
HEAD_S = 10.0
"""From the connection, or from the first byte of a later request, until its headers are complete."""
READ_S = 30.0
"""A client that takes nothing of its answers for so long is gone."""
MAX_PIPELINED = 8
"""Requests on a connection that wait for the answer of another."""
UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
LINGER_S = 1.0
"""How long to take what a refused client still sends: closed at once, the kernel would cut it off from the answer."""


def _without_upgrade(data: bytes) -> bytes:
    """What comes in, without a wish for another protocol such as Java has, for HTTP/2: the parser would stop there."""
    head, end, rest = data.partition(b"\r\n\r\n")
    return UPGRADE.sub(b"\r\nx-upgrade:", head) + end + rest if UPGRADE.search(head) else data


class Joined:
    """A transport that sends together what is written in one turn of the event loop: uvicorn writes a head and a body,
    and each would be a system call, and wake the client."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._written: list[bytes] = []

    def __getattr__(self, name: str) -> object:
        """All else is the transport's."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send soon."""
        if not self._written:
            self._loop.call_soon(self._flush)
        self._written.append(data)

    def close(self) -> None:
        """Send what is written, and hang up."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._written and not self._transport.is_closing():
            self._transport.writelines(self._written)
        self._written.clear()


class Protocol(HttpToolsProtocol):
    """Hangs up on clients that send headers without end, by size or by time, that do not read, or do not wait."""

    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None
    _in_body = False
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # noqa: D102 - uvicorn's
        super().connection_made(cast(asyncio.Transport, Joined(transport, self.loop)))
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._end_head()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:  # noqa: D102
        super().pause_writing()
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(READ_S, self.transport.abort)

    def resume_writing(self) -> None:  # noqa: D102
        super().resume_writing()
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def on_message_begin(self) -> None:  # noqa: D102
        super().on_message_begin()
        self._begin_head()

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        if self._head_timer is not None:  # else it is a trailer, which nobody reads
            super().on_header(name, value)

    def on_headers_complete(self) -> None:  # noqa: D102
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refuse(HTTPStatus.TOO_MANY_REQUESTS, f"over {MAX_PIPELINED} requests wait for the answer of another")
        if self._refused:
            return
        self._end_head()
        self._in_body = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:  # noqa: D102
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:  # noqa: D102
        self._in_body = False
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self._refused:
            return
        in_head = self._head_timer is not None
        if not self._in_body:
            data = _without_upgrade(data)
        super().data_received(data)
        if in_head and self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                self._refuse(status, f"the headers are over {HEAD_BYTES} bytes")

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, in the form of every other error."""
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def _begin_head(self) -> None:
        if self._head_timer is None:
            self._head_bytes = 0
            message = f"the headers were not complete within {HEAD_S:g} s"
            self._head_timer = self.loop.call_later(HEAD_S, self._refuse, HTTPStatus.REQUEST_TIMEOUT, message)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self._end_head()
        self._refused = True
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not self._in_body or cycle.response_started or self.pipeline:
                cycle.keep_alive = False  # the answer of another request comes first, and is the last
                return
            cycle.disconnected = True
            cycle.message_event.set()
        error = ErrorObject(message, "invalid_request_error", None, status.name.lower())
        body = msgspec.json.encode(ErrorResponse(error, message))
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.loop.call_later(LINGER_S, self.transport.close)
