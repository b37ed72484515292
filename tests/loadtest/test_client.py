"""The clients against a server of the standard library."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from loadtest.tools.client import BenchmarkError, send

WAIT_S = 0.02


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bodies: list[bytes]
    now = most = 0

    def do_POST(self) -> None:
        kind = type(self)
        kind.now += 1
        kind.most = max(kind.most, kind.now)
        body = self.rfile.read(int(self.headers["content-length"]))
        kind.bodies.append(body)
        time.sleep(WAIT_S)
        kind.now -= 1
        self.send_response(500 if body == b"bad" else 200)
        self.send_header("content-length", "2")
        if body == b"last":
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    Handler.bodies, Handler.most = [], 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server.server_port
        server.shutdown()


def test_each_client_has_one_request_under_way(port: int) -> None:
    answers = send("127.0.0.1", port, "/", [b"a"], clients=3, seconds=0.3)
    assert Handler.most == 3
    assert len(answers.latencies_ms) == len(Handler.bodies) >= 3
    assert 0.3 <= answers.seconds < 5
    assert min(answers.latencies_ms) >= WAIT_S * 1000
    assert answers.per_second == len(answers.latencies_ms) / answers.seconds


def test_bodies_take_turns(port: int) -> None:
    send("127.0.0.1", port, "/", [b"a", b"bb", b"ccc"], clients=1, seconds=0.3)
    assert Handler.bodies[:4] == [b"a", b"bb", b"ccc", b"a"]


def test_a_connection_that_the_server_closes_is_opened_again(port: int) -> None:
    send("127.0.0.1", port, "/", [b"last", b"a"], clients=1, seconds=0.3)
    assert Handler.bodies[:4] == [b"last", b"a", b"last", b"a"]


def test_an_answer_in_error_ends_the_benchmark(port: int) -> None:
    with pytest.raises(BenchmarkError, match=r"^HTTP/1\.1 500 "):
        send("127.0.0.1", port, "/", [b"a", b"bad"], clients=2, seconds=1)
