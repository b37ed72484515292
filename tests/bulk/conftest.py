"""A server of the embedding API that does as a test says: it answers late, refuses, or goes away."""

import base64
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Answer = tuple[int, dict[str, str], bytes]


def vectors(texts: list[str]) -> Answer:
    """A text's vector is its length, and one."""
    data = [
        {"index": i, "embedding": base64.b64encode(struct.pack("<2f", len(text), 1)).decode()}
        for i, text in reversed(list(enumerate(texts)))
    ]
    return 200, {}, json.dumps({"data": data}).encode()


def error(status: int, message: str, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, named, json.dumps({"error": {"message": message}}).encode()


@dataclass
class Api:
    """What it was asked, and what it answers."""

    url: str
    answer: Callable[[list[str]], Answer | None] = vectors
    """None hangs up."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)
    most_at_once: int = 0

    @property
    def texts(self) -> list[str]:
        return [text for body in self.asked for text in body["input"]]


@pytest.fixture
def api() -> Iterator[Api]:
    lock, in_flight = Lock(), 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            nonlocal in_flight
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                in_flight += 1
                found.most_at_once = max(found.most_at_once, in_flight)
                found.asked.append(body)
                found.keys.add(self.headers["authorization"])
                found.paths.add(self.path)
            answer = found.answer(body["input"])
            with lock:
                in_flight -= 1
            if answer is None:
                self.close_connection = True
                return
            status, headers, content = answer
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
            """Not to standard error."""

    class Http(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Clients may be killed while they wait."""

    with Http(("127.0.0.1", 0), Handler) as http:
        found = Api(f"http://127.0.0.1:{http.server_port}")
        Thread(target=http.serve_forever, args=(0.01,)).start()
        try:
            yield found
        finally:
            http.shutdown()


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Two files of 30 and 25 texts, in row groups of 10."""
    folder = tmp_path / "with space" / "texts"
    folder.mkdir(parents=True)
    for name, rows in (("b", range(30, 55)), ("a", range(30))):
        table = pa.table({"id": [f"t{row}" for row in rows], "text": ["x" * row for row in rows], "other": list(rows)})
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=10)
    return folder
