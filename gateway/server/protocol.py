"""HTTP on a connection: uvicorn's, with limits on what comes before a request is one."""

import asyncio
import re
from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import cast

import httptools
import msgspec
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.error_body import ErrorObject, ErrorResponse

HEAD_BYTES = 64 * 2**10
"""Of a request's line and headers, as they come in; what comes in one piece with their end is not counted."""
HEAD_S = 10.0
"""From the connection, or from the first byte of a later request, until its headers are complete."""
READ_S = 30.0
"""A client that takes nothing of its answers for so long is gone."""
MAX_PIPELINED = 8
"""Requests on a connection that wait for the answer of another."""
MAX_CHUNKS = 512
"""Pieces that a body may come in, beside one for each CHUNK_BYTES of it: each costs as much as a kilobyte does."""
CHUNK_BYTES = 64
TOO_MANY_S = 0.1
"""Until that is said: a client that is answered at once comes again at once."""
REST_S = 10.0
"""For the rest of a body that came after its answer, all of it together; a connection is used again after that."""
REST_BYTES = 64 * 2**20
"""Of such a rest."""
PACE_S = 0.02
"""Between two looks at what nobody reads: uvloop takes megabytes at a time from a client that sends fast, while all
others wait."""
LINGER_S = 1.0
"""How long to take what a refused client still sends: closed at once, the kernel would cut it off from the answer."""
HOST = re.compile(rb"[\w.~!$&'()*+,;=%:\[\]-]*", re.ASCII)
"""RFC 9110, section 7.2: a name or an address, and a port."""


class _TooManyChunksError(Exception):
    """Ends the parser's work on what has come in."""


class Joined:
    """A transport that sends together what is written in one turn of the event loop: uvicorn writes a head and a body,
    and each would be a system call, and wake the client."""

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, close: Callable[[], None]
    ) -> None:
        """Write to a transport; `close` hangs up, now or later."""
        self._transport = transport
        self._loop = loop
        self._close = close
        self._is_closed = False
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
        self._is_closed = True
        self._close()

    def is_closing(self) -> bool:
        """Whether nothing more is answered."""
        return self._is_closed or self._transport.is_closing()

    def _flush(self) -> None:
        if self._written and not self.is_closing():
            self._transport.writelines(self._written)
        self._written.clear()


class Flow(FlowControl):
    """Takes nothing more from a client while one of its requests waits for the answer of another: each look whether the
    client is still there would let in more of a body that nobody counts yet."""

    def __init__(self, transport: asyncio.Transport, waiting: Collection[object]) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        """Take more, if nothing waits."""
        if not self._waiting:
            super().resume_reading()


class Protocol(HttpToolsProtocol):
    """Hangs up on clients that send headers or bodies without end, by size or by time, that do not read, or do not
    wait."""

    _socket: asyncio.Transport
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None
    _in_body = False
    _body_bytes = 0
    _chunks = 0
    _rest_bytes = 0
    _rest_timer: asyncio.TimerHandle | None = None
    _wants_upgrade = False
    _answering: RequestResponseCycle | None = None
    """The request that is under way, while others may wait in the pipeline."""
    _refused = False
    """Nothing more is read of requests."""
    _is_wrong = False
    """What came is no HTTP as we take it: the rest is not even taken in."""
    _lingers = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._socket = transport
        self._parts: list[bytes] = []
        super().connection_made(cast(asyncio.Transport, Joined(transport, self.loop, self._close)))
        self.flow = Flow(transport, self.pipeline)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        self._end_rest()
        self.resume_writing()
        if self._answering is not None and not self._answering.response_complete:  # uvicorn tells the last one only
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(READ_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_timer is not None:  # else it is a trailer, which nobody reads
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._wants_upgrade = True
            return
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refuse(HTTPStatus.TOO_MANY_REQUESTS, f"over {MAX_PIPELINED} requests wait for the answer of another")
        elif (problem := self._problem()) is not None:
            self._refuse(*problem)
        if self._refused:
            return
        self._end_head()
        super().on_headers_complete()  # may raise, and then this is no request
        self._in_body = True
        self._body_bytes = self._chunks = 0
        if not self.pipeline:
            self._answering = self.cycle

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)
        self._body_bytes += len(body)
        self._chunks += 1
        if self._chunks > MAX_CHUNKS + self._body_bytes // CHUNK_BYTES:
            raise _TooManyChunksError

    def on_message_complete(self) -> None:
        if self._wants_upgrade or self._refused:
            return
        self._hand_over()
        self._in_body = False
        super().on_message_complete()
        if self._rest_timer is not None:
            self._end_rest()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        if self.pipeline:
            self._answering, _ = self.pipeline[-1]
        super().on_response_complete()
        if self._in_body and self.cycle.response_complete and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._rest_bytes = 0
            self._rest_timer = self.loop.call_later(REST_S, self.transport.close)

    def data_received(self, data: bytes) -> None:
        in_head = self._head_timer is not None
        if not in_head and not self._in_body:
            data = data.lstrip(b"\r\n")  # between requests (RFC 9112, section 2.2), where it would stop a timer
        if self._refused or self._rest_timer is not None:
            self._pause()
        if self._refused or not data:
            return
        self._unset_keepalive_if_required()
        self._parse(data)
        if in_head and self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                self._refuse(status, f"the headers are over {HEAD_BYTES} bytes")
        if self._rest_timer is not None:
            self._rest_bytes += len(data)
            if self._rest_bytes > REST_BYTES:
                self.transport.close()

    def _pause(self) -> None:
        if not self._socket.is_closing():
            self._socket.pause_reading()
            if not self._is_wrong:
                self.loop.call_later(PACE_S, self._go_on)

    def _go_on(self) -> None:
        if not self._socket.is_closing() and not self.flow.read_paused:
            self._socket.resume_reading()

    def _parse(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stop:
                data = self._without_upgrade() + data[stop.args[0] :]
            except httptools.HttpParserError as exc:
                if isinstance(exc.__context__, _TooManyChunksError):
                    self._refused = True
                    message = f"the body comes in over {MAX_CHUNKS} chunks of under {CHUNK_BYTES} bytes"
                    self.loop.call_later(TOO_MANY_S, self._refuse, HTTPStatus.BAD_REQUEST, message)
                else:
                    self.send_400_response("Invalid HTTP request received.")
                return
            else:
                self._hand_over()
                return

    def _without_upgrade(self) -> bytes:
        """The head of a request that wishes for another protocol, as Java does, for HTTP/2, without that wish: the
        parser takes nothing behind it for HTTP. Nothing, where it was a CONNECT, which is answered like all else."""
        if not self._wants_upgrade:
            return b""
        self._wants_upgrade = False
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _hand_over(self) -> None:
        """Pass on what came of a body, however many chunks it came in."""
        if self._parts:
            body = b"".join(self._parts)
            self._parts.clear()
            if not self._refused:
                super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, in the form of every other error."""
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def _problem(self) -> tuple[HTTPStatus, str] | None:
        """What is wrong with the headers (RFC 9112, sections 3.2 and 6.1)."""
        hosts = []
        for name, value in self.headers:
            if name == b"host":
                hosts.append(value)
            elif name == b"transfer-encoding" and value.lower() != b"chunked":
                return HTTPStatus.NOT_IMPLEMENTED, "the only transfer-encoding that is read is chunked"
        if len(hosts) > 1:
            return HTTPStatus.BAD_REQUEST, "there is more than one Host header"
        if not hosts:
            is_old = self.parser.get_http_version() == "1.0"
            return None if is_old else (HTTPStatus.BAD_REQUEST, "there is no Host header")
        return None if HOST.fullmatch(hosts[0]) else (HTTPStatus.BAD_REQUEST, "the Host header is not a host")

    def _begin_head(self) -> None:
        if self._head_timer is None and not self._refused:
            self._head_bytes = 0
            message = f"the headers were not complete within {HEAD_S:g} s"
            self._head_timer = self.loop.call_later(HEAD_S, self._refuse, HTTPStatus.REQUEST_TIMEOUT, message)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_rest(self) -> None:
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None

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
        self._is_wrong = True
        if self._rest_timer is None:  # else there is an answer already
            self.transport.write(_error(status, message))
        self.transport.close()

    def _close(self) -> None:
        """Hang up, but not on a client that sends: the kernel would drop the answer, too."""
        if self._socket.is_closing() or self._lingers:
            return
        self._end_rest()
        if self._in_body or self._refused:
            self._lingers = self._refused = True
            self.pipeline.clear()
            self.flow.resume_reading()
            self._socket.write_eof()
            self.loop.call_later(LINGER_S, self._socket.close)
        else:
            self._socket.close()
        if self._socket.get_write_buffer_size():
            self.loop.call_later(READ_S, self._socket.abort)


def _error(status: HTTPStatus, message: str) -> bytes:
    error = ErrorObject(message, "invalid_request_error", None, status.name.lower())
    body = msgspec.json.encode(ErrorResponse(error, message))
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
        f"x-content-type-options: nosniff\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
