"""What is not yet a request, over a socket."""

import asyncio
import json
import socket
from collections.abc import Iterable, Iterator

import pytest

from gateway.protocol import HEAD_BYTES, MAX_PIPELINED, Joined
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


def test_what_is_no_http_is_refused_in_the_form_of_every_error(connection: socket.socket) -> None:
    connection.sendall(b"hello\r\n\r\n")
    assert answer(connection) == (400, "Invalid HTTP request received.")


def test_headers_without_end_are_refused(connection: socket.socket) -> None:
    connection.sendall(REQUEST + b"x: ")
    for _ in range(HEAD_BYTES // 4096 + 1):
        connection.sendall(b"a" * 4096)
    assert answer(connection) == (431, f"the headers are over {HEAD_BYTES} bytes")


def test_headers_that_come_too_slowly_are_refused(connection: socket.socket) -> None:
    connection.sendall(REQUEST)
    assert answer(connection) == (408, "the headers were not complete within 10 s")


def test_connection_that_rests_between_requests_is_kept(connection: socket.socket) -> None:
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


def test_wish_for_another_protocol_is_ignored(connection: socket.socket) -> None:
    body = b'{"input": "a"}'
    head = POST % len(body) + b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AA\r\n"
    connection.sendall(head + b"\r\n" + body + REQUEST + b"connection: close\r\n\r\n")
    assert received(connection).startswith(b"HTTP/1.1 200 OK")


def test_requests_that_do_not_wait_for_answers_are_refused(connection: socket.socket) -> None:
    body = b'{"input": "a"}'
    connection.sendall((POST % len(body) + b"\r\n" + body) * 1000)
    assert (
        received(connection).count(b"HTTP/1.1 200 OK") == MAX_PIPELINED + 1
    )  # those that wait, and the one they wait for


def test_trailers_are_taken_and_dropped(connection: socket.socket) -> None:
    connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
    connection.sendall(b'e\r\n{"input": "a"}\r\n0\r\n' + b"x-trailer: 1\r\n" * 1000 + b"\r\n")
    connection.sendall(REQUEST + b"connection: close\r\n\r\n")
    assert received(connection).count(b"HTTP/1.1 200 OK") == 2


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


def test_head_and_body_are_sent_together() -> None:
    async def use() -> list[object]:
        recording = Recording()
        joined = Joined(recording, asyncio.get_running_loop())
        joined.write(b"head")
        joined.write(b"body")
        await asyncio.sleep(0)
        joined.write(b"next")
        joined.close()
        joined.write(b"too late")
        await asyncio.sleep(0)
        return recording.done

    assert asyncio.run(use()) == [[b"head", b"body"], [b"next"], "closed"]
