"""uvicorn's HTTP protocol with limits on headers, chunks, pipelining and slow clients."""

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
"""The largest request line and headers. Data received together with the end of the headers is not counted."""
HEAD_TIMEOUT_S = 10.0
"""How long a client may take to send the headers, from the connection or from the first byte of a later request."""
READ_TIMEOUT_S = 30.0
"""Disconnect a client that reads nothing of its response for this long."""
MAX_PIPELINED = 8
"""The most requests on a connection that wait for the response to an earlier one."""
MAX_CHUNKS = 512
"""The most chunks of a body, plus one for each CHUNK_BYTES of it. A chunk costs as much time as a kilobyte."""
CHUNK_BYTES = 64
CHUNKS_REFUSAL_DELAY_S = 0.1
"""How long to wait before refusing a body with too many chunks: a client that is refused at once retries at once."""
REST_TIMEOUT_S = 10.0
"""How long to receive the rest of a body after its response was sent. The connection can be reused afterwards."""
REST_BYTES = 64 * 2**20
"""How much of the rest of a body to receive after its response was sent."""
DISCARD_PAUSE_S = 0.02
"""The pause between reads of data that is discarded: uvloop reads megabytes at a time from a fast client, while all
other clients wait."""
LINGER_S = 1.0
"""How long to keep receiving from a client after refusing it. If the socket were closed while the client sends, the
kernel would discard the response."""
HOST = re.compile(rb"[\w.~!$&'()*+,;=%:\[\]-]*", re.ASCII)
"""A name or an address, with an optional port (RFC 9110, section 7.2)."""


class _TooManyChunksError(Exception):
    """Stops the parser."""


class CoalescingTransport:
    """A transport that sends everything written in one iteration of the event loop together. uvicorn writes headers and
    body separately, which would cost two system calls and wake the client twice."""

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, close: Callable[[], None]
    ) -> None:
        """Write to a transport; `close` closes it, now or later."""
        self._transport = transport
        self._loop = loop
        self._close = close
        self._is_closed = False
        self._written: list[bytes] = []

    def __getattr__(self, name: str) -> object:
        """Pass everything else on to the transport."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send at the end of this iteration of the event loop."""
        if not self._written:
            self._loop.call_soon(self._flush)
        self._written.append(data)

    def close(self) -> None:
        """Send what was written, then close."""
        self._flush()
        self._is_closed = True
        self._close()

    def is_closing(self) -> bool:
        return self._is_closed or self._transport.is_closing()

    def _flush(self) -> None:
        if self._written and not self.is_closing():
            self._transport.writelines(self._written)
        self._written.clear()


class PipelineFlowControl(FlowControl):
    """Does not read from a client while one of its requests waits for an earlier response. Otherwise, checking whether
    the client is still connected would receive more of a body that is not counted yet."""

    def __init__(self, transport: asyncio.Transport, waiting: Collection[object]) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        """Resume, unless a request is waiting."""
        if not self._waiting:
            super().resume_reading()


class Protocol(HttpToolsProtocol):
    """Disconnects clients that exceed the limits on the size and time of headers and bodies, on pipelined requests, or
    on the time to read a response."""

    _socket: asyncio.Transport
    _in_head = False
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    """Of a head of which a part is missing: most come in one piece, and need none."""
    _read_timer: asyncio.TimerHandle | None = None
    _in_body = False
    _body_bytes = 0
    _chunks = 0
    _rest_bytes = 0
    _rest_timer: asyncio.TimerHandle | None = None
    _wants_upgrade = False
    _answering: RequestResponseCycle | None = None
    """The request being answered, while others may wait in the pipeline."""
    _refused = False
    """No more requests are read."""
    _is_malformed = False
    """The client does not speak HTTP correctly: the rest of its data is not even received."""
    _lingers = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._socket = transport
        self._parts: list[bytes] = []
        super().connection_made(cast(asyncio.Transport, CoalescingTransport(transport, self.loop, self._close)))
        self.flow = PipelineFlowControl(transport, self.pipeline)
        self._begin_head()
        self._time_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        self._end_rest()
        self.resume_writing()
        if self._answering is not None and not self._answering.response_complete:  # uvicorn notifies only the last one
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(READ_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # otherwise it is a trailer, which is ignored
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._wants_upgrade = True
            return
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refuse(HTTPStatus.TOO_MANY_REQUESTS, f"more than {MAX_PIPELINED} pipelined requests")
        elif (problem := self._header_problem()) is not None:
            self._refuse(*problem)
        if self._refused:
            return
        self._end_head()
        super().on_headers_complete()  # may raise, and then there is no request
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
            self._rest_timer = self.loop.call_later(REST_TIMEOUT_S, self.transport.close)

    def data_received(self, data: bytes) -> None:
        in_head = self._in_head
        if not in_head and not self._in_body:
            data = data.lstrip(b"\r\n")  # allowed between requests (RFC 9112, section 2.2), but it would stop a timer
        if self._refused or self._rest_timer is not None:
            self._pause()
        if self._refused or not data:
            return
        self._unset_keepalive_if_required()
        self._parse(data)
        self._time_head()
        if in_head and self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                self._refuse(status, f"the request headers exceed {HEAD_BYTES} bytes")
        if self._rest_timer is not None:
            self._rest_bytes += len(data)
            if self._rest_bytes > REST_BYTES:
                self.transport.close()

    def _pause(self) -> None:
        if not self._socket.is_closing():
            self._socket.pause_reading()
            if not self._is_malformed:
                self.loop.call_later(DISCARD_PAUSE_S, self._resume_reading)

    def _resume_reading(self) -> None:
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
                    message = f"the body has more than {MAX_CHUNKS} chunks smaller than {CHUNK_BYTES} bytes"
                    self.loop.call_later(CHUNKS_REFUSAL_DELAY_S, self._refuse, HTTPStatus.BAD_REQUEST, message)
                else:
                    self.send_400_response("Invalid HTTP request received.")
                return
            else:
                self._hand_over()
                return

    def _without_upgrade(self) -> bytes:
        """The request line and headers without the Upgrade header. Java's client asks for HTTP/2 this way, and the
        parser does not parse what follows an upgrade. Empty for a CONNECT, which gets an ordinary response."""
        if not self._wants_upgrade:
            return b""
        self._wants_upgrade = False
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _hand_over(self) -> None:
        """Pass on the chunks of a body received so far, as one."""
        if self._parts:
            body = b"".join(self._parts)
            self._parts.clear()
            if not self._refused:
                super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Refuse malformed HTTP, in the format of every other error."""
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def _header_problem(self) -> tuple[HTTPStatus, str] | None:
        """The status and message if the headers are invalid (RFC 9112, sections 3.2 and 6.1)."""
        hosts = []
        for name, value in self.headers:
            if name == b"host":
                hosts.append(value)
            elif name == b"transfer-encoding" and value.lower() != b"chunked":
                return HTTPStatus.NOT_IMPLEMENTED, "unsupported transfer-encoding; only chunked is supported"
        if len(hosts) > 1:
            return HTTPStatus.BAD_REQUEST, "the request has more than one Host header"
        if not hosts:
            is_old = self.parser.get_http_version() == "1.0"
            return None if is_old else (HTTPStatus.BAD_REQUEST, "the request has no Host header")
        return None if HOST.fullmatch(hosts[0]) else (HTTPStatus.BAD_REQUEST, "the Host header is not a valid host")

    def _begin_head(self) -> None:
        if not self._in_head and not self._refused:
            self._in_head = True
            self._head_bytes = 0

    def _time_head(self) -> None:
        if self._in_head and self._head_timer is None:
            message = f"the request headers were not complete within {HEAD_TIMEOUT_S:g} s"
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._refuse, HTTPStatus.REQUEST_TIMEOUT, message)

    def _end_head(self) -> None:
        self._in_head = False
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
                cycle.keep_alive = False  # the response to another request comes first, and is the last
                return
            cycle.disconnected = True
            cycle.message_event.set()
        self._is_malformed = True
        if self._rest_timer is None:  # otherwise there is a response already
            self.transport.write(_error(status, message))
        self.transport.close()

    def _close(self) -> None:
        """Close the connection, but linger if the client is sending: the kernel would discard the response."""
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
            self.loop.call_later(READ_TIMEOUT_S, self._socket.abort)


def _error(status: HTTPStatus, message: str) -> bytes:
    error = ErrorObject(message, "invalid_request_error", None, status.name.lower())
    body = msgspec.json.encode(ErrorResponse(error, message))
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
        f"x-content-type-options: nosniff\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
