"""What is not yet a request, over a socket."""

import asyncio
import json
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress

import pytest

from gateway.server.protocol import (
    CHUNK_BYTES,
    HEAD_BYTES,
    MAX_CHUNKS,
    MAX_PIPELINED,
    REST_BYTES,
    CoalescingTransport,
    PipelineFlowControl,
)
from tests.serving import Server

REQUEST = b"GET /health/live HTTP/1.1\r\nhost: a\r\n"


@pytest.fixture
def connection(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.ports["GATEWAY_PORT"]), timeout=30) as connection:
        yield connection


def answer(connection: socket.socket) -> tuple[int, str]:
    """Status and message of an error, with which the connection ends."""
    received = b""
    while part := connection.recv(2**16):
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["message"]


def test_malformed_http_is_refused_in_the_common_format(connection: socket.socket) -> None:
    connection.sendall(b"hello\r\n\r\n")
    assert answer(connection) == (400, "Invalid HTTP request received.")


def test_headers_without_end_are_refused(connection: socket.socket) -> None:
    connection.sendall(REQUEST + b"x: ")
    for _ in range(HEAD_BYTES // 4096 + 1):
        connection.sendall(b"a" * 4096)
    assert answer(connection) == (431, f"the request headers exceed {HEAD_BYTES} bytes")


def test_slow_headers_are_refused(connection: socket.socket) -> None:
    connection.sendall(REQUEST)
    assert answer(connection) == (408, "the request headers were not complete within 10 s")


def test_idle_connection_between_requests_is_kept(connection: socket.socket) -> None:
    for _ in range(2):
        connection.sendall(REQUEST + b"\r\n")
        received = b""
        while not received.endswith(b'{"status":"live"}'):
            received += connection.recv(2**16)
        assert received.startswith(b"HTTP/1.1 200 OK")


def received(connection: socket.socket) -> bytes:
    """All until the connection ends."""
    whole = b""
    while part := connection.recv(2**16):
        whole += part
    return whole


POST = b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n"


def test_answer_of_an_earlier_request_comes_first_and_is_the_last(connection: socket.socket) -> None:
    body = b'{"input": "a"}'
    connection.sendall(POST % len(body) + b"\r\n" + body + b"no HTTP\r\n\r\n")
    answers = received(connection)
    assert answers.startswith(b"HTTP/1.1 200 OK")
    assert answers.count(b"HTTP/1.1") == 1


def test_body_does_not_count_as_the_headers_of_the_next_request(connection: socket.socket) -> None:
    body = b'{"input": "a"%s}' % (b" " * 2 * HEAD_BYTES)
    connection.sendall(POST % len(body) + b"\r\n" + body + b"GET /health/live HTTP/1.1\r\nhost: a\r\n")
    connection.sendall(b"connection: close\r\n\r\n")
    answers = received(connection)
    assert answers.count(b"HTTP/1.1 200 OK") == 2


def test_upgrade_header_is_ignored(connection: socket.socket) -> None:
    body = b'{"input": "a"}'
    head = POST % len(body) + b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AA\r\n"
    connection.sendall(head + b"\r\n" + body + REQUEST + b"connection: close\r\n\r\n")
    assert received(connection).startswith(b"HTTP/1.1 200 OK")


def test_too_many_pipelined_requests_are_refused(connection: socket.socket) -> None:
    body = b'{"input": "a"}'
    connection.sendall((POST % len(body) + b"\r\n" + body) * 1000)
    assert (
        received(connection).count(b"HTTP/1.1 200 OK") == MAX_PIPELINED + 1
    )  # those that wait, and the one they wait for


def test_trailers_are_ignored(connection: socket.socket) -> None:
    connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
    connection.sendall(b'e\r\n{"input": "a"}\r\n0\r\n' + b"x-trailer: 1\r\n" * 1000 + b"\r\n")
    connection.sendall(REQUEST + b"connection: close\r\n\r\n")
    assert received(connection).count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        (b"", "the request has no Host header"),
        (b"host: a\r\nhost: a\r\n", "the request has more than one Host header"),
        (b"host: a, b\r\n", "the Host header is not a valid host"),
        (b"host: a/b\r\n", "the Host header is not a valid host"),
    ],
)
def test_request_without_one_host_is_refused(connection: socket.socket, headers: bytes, message: str) -> None:
    connection.sendall(b"GET /health/live HTTP/1.1\r\n" + headers + b"\r\n")
    assert answer(connection) == (400, message)


@pytest.mark.parametrize("host", [b"", b"a", b"a:80", b"[::1]:8080", b"x_y-z.example.com"])
def test_any_valid_host_is_accepted(connection: socket.socket, host: bytes) -> None:
    connection.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: %s\r\nconnection: close\r\n\r\n" % host)
    assert received(connection).startswith(b"HTTP/1.1 200 OK")


def test_http_1_0_needs_no_host(connection: socket.socket) -> None:
    connection.sendall(b"GET /health/live HTTP/1.0\r\n\r\n")
    assert received(connection).startswith(b"HTTP/1.1 200 OK")


def test_transfer_encoding_that_is_not_decoded_is_refused(connection: socket.socket) -> None:
    connection.sendall(REQUEST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n")
    assert answer(connection) == (501, "unsupported transfer-encoding; only chunked is supported")


@pytest.mark.parametrize(
    ("other", "status"),
    [
        (b"GET /health/live HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", b"200 OK"),
        (POST % 14 + b'connection: upgrade\r\nupgrade: h2c\r\n\r\n{"input": "a"}', b"200 OK"),
        (b"CONNECT /v1/models HTTP/1.1\r\nhost: a\r\n\r\n", b"405 Method Not Allowed"),
    ],
)
@pytest.mark.parametrize("apart", [False, True])
def test_requests_after_an_upgrade_are_answered(
    connection: socket.socket, other: bytes, status: bytes, apart: bool
) -> None:
    whole = REQUEST + b"\r\n" + other + REQUEST + b"connection: close\r\n\r\n"
    for part in [whole[i : i + 40] for i in range(0, len(whole), 40)] if apart else [whole]:
        connection.sendall(part)
    statuses = [head.partition(b"\r\n")[0] for head in received(connection).split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200 OK", status, b"200 OK"]


@pytest.mark.parametrize("target", [b"GET http://a", b"CONNECT a:443"])
def test_request_before_a_malformed_one_is_answered(connection: socket.socket, target: bytes) -> None:
    body = b'{"input": "a"}'
    first = b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    connection.sendall(first + target + b" HTTP/1.1\r\nhost: a\r\n\r\n")
    assert received(connection).startswith(b"HTTP/1.1 200 OK")


CHUNKED = b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"


def test_body_in_small_chunks_is_put_together(connection: socket.socket) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in b'{"input": "a"}' + b" " * (MAX_CHUNKS - 100))
    connection.sendall(CHUNKED + chunks + b"0\r\n\r\n" + REQUEST + b"connection: close\r\n\r\n")
    assert received(connection).count(b"HTTP/1.1 200 OK") == 2


def test_body_in_small_chunks_without_end_is_refused(connection: socket.socket) -> None:
    connection.sendall(CHUNKED + b"1\r\n \r\n" * (MAX_CHUNKS + 1000))
    assert answer(connection) == (400, f"the body has more than {MAX_CHUNKS} chunks smaller than {CHUNK_BYTES} bytes")


FOREIGN = b"POST /v1/embeddings HTTP/1.1\r\nhost: example.com\r\n"


def test_rest_of_a_refused_body_is_read_and_the_connection_kept(connection: socket.socket) -> None:
    connection.sendall(FOREIGN + b"content-length: 300000\r\n\r\n")
    assert connection.recv(2**16).startswith(b"HTTP/1.1 403 Forbidden")
    connection.sendall(b" " * 300000 + REQUEST + b"connection: close\r\n\r\n")
    assert received(connection).startswith(b"HTTP/1.1 200 OK")


def test_rest_of_a_refused_body_in_small_chunks_ends_the_connection(connection: socket.socket) -> None:
    connection.sendall(FOREIGN + b"transfer-encoding: chunked\r\n\r\n")
    assert connection.recv(2**16).startswith(b"HTTP/1.1 403 Forbidden")
    connection.sendall(b"1\r\n \r\n" * (MAX_CHUNKS + 1000))
    assert received(connection) == b""


def test_rest_of_a_refused_body_over_a_limit_ends_the_connection(connection: socket.socket) -> None:
    connection.sendall(FOREIGN + b"content-length: %d\r\n\r\n" % 2**40)
    assert connection.recv(2**16).startswith(b"HTTP/1.1 403 Forbidden")
    for _ in range(REST_BYTES // 2**20 + 1):
        connection.sendall(bytes(2**20))
    assert received(connection) == b""


def drip(connection: socket.socket, byte: bytes, timeout_s: float = 30) -> bytes:
    """Send a byte a few times a second, until the connection ends; what is received meanwhile."""
    whole = b""
    connection.settimeout(0.3)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with suppress(TimeoutError):
            connection.sendall(byte)
            part = connection.recv(2**16)
            if not part:
                return whole
            whole += part
    raise AssertionError("never ended")


def test_rest_of_a_refused_body_that_never_comes_ends_the_connection(connection: socket.socket) -> None:
    connection.sendall(FOREIGN + b"content-length: 300000\r\n\r\n")
    assert drip(connection, b" ").startswith(b"HTTP/1.1 403 Forbidden")


def test_line_breaks_between_requests_are_ignored(connection: socket.socket) -> None:
    for before in (b"", b"\r\n", b"\r\n"):
        connection.sendall(before)
        time.sleep(0.1)  # so that the server reads the line break alone
        connection.sendall(REQUEST + b"\r\n")
        assert connection.recv(2**16).startswith(b"HTTP/1.1 200 OK")


def test_client_that_closes_gets_its_response_before_its_body_is_complete(connection: socket.socket) -> None:
    connection.sendall(FOREIGN + b"connection: close\r\ncontent-length: 3000000\r\n\r\n" + b" " * 2_000_000)
    time.sleep(0.2)  # so that the answer is there before the rest
    connection.sendall(b" " * 500_000)
    assert received(connection).startswith(b"HTTP/1.1 403 Forbidden")


class Recording(asyncio.Transport):
    """Writes down what it is told to do."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[object] = []

    def is_closing(self) -> bool:
        return "closed" in self.done

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.done.append(list(list_of_data))

    def close(self) -> None:
        self.done.append("closed")

    def pause_reading(self) -> None:
        self.done.append("paused")

    def resume_reading(self) -> None:
        self.done.append("resumed")


def test_no_more_is_read_while_a_request_waits() -> None:
    recording, waiting = Recording(), ["a request"]
    flow = PipelineFlowControl(recording, waiting)
    flow.pause_reading()
    flow.resume_reading()
    assert recording.done == ["paused"]
    waiting.clear()
    flow.resume_reading()
    assert recording.done == ["paused", "resumed"]


def test_head_and_body_are_sent_together() -> None:
    async def use() -> list[object]:
        recording = Recording()
        transport = CoalescingTransport(recording, asyncio.get_running_loop(), recording.close)
        transport.write(b"head")
        transport.write(b"body")
        await asyncio.sleep(0)
        transport.write(b"next")
        transport.close()
        transport.write(b"too late")
        await asyncio.sleep(0)
        return recording.done

    assert asyncio.run(use()) == [[b"head", b"body"], [b"next"], "closed"]
