"""Clients that send requests and measure how long each takes."""

import asyncio
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

import uvloop

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
LAST = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)
"""A server's word that it closes the connection: llama.cpp does so after 100 requests."""
HEAD = "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: "
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class BenchmarkError(Exception):
    """A server does not do what is to be measured."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What came of sending for a while."""

    seconds: float
    """Until the last answer."""
    latencies_ms: Sequence[float]
    """Of each answer, ascending."""

    @property
    def per_second(self) -> float:
        """Requests answered in a second."""
        return len(self.latencies_ms) / self.seconds


def send(host: str, port: int, path: str, bodies: Sequence[bytes], clients: int, seconds: float) -> Answers:
    """Let clients send one request after the other, each over its own connection.

    Written against sockets, since on the same cores every full HTTP client would take a good part of them away from the
    server: this one takes 60 us a request.

    Raises:
        BenchmarkError: an answer has another status than 200.
    """
    return uvloop.run(_send(host, port, path, cycle(bodies), clients, seconds))


async def _send(host: str, port: int, path: str, bodies: Iterator[bytes], clients: int, seconds: float) -> Answers:
    head = HEAD.format(path=path, host=f"{host}:{port}").encode()
    started = time.perf_counter()
    ended = started + seconds
    latencies: list[float] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection(host, port, limit=2**20)
        try:
            sent = time.perf_counter()
            while sent < ended:
                body = next(bodies)
                writer.write(b"%s%d\r\n\r\n%s" % (head, len(body), body))
                is_last = await _read(reader)
                answered = time.perf_counter()
                latencies.append((answered - sent) * 1000)
                sent = answered
                if is_last:
                    writer.close()
                    reader, writer = await asyncio.open_connection(host, port, limit=2**20)
        finally:
            writer.close()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())
    except ExceptionGroup as errors:  # not except*: Python before 3.11.4 wraps what is raised in there
        raise errors.exceptions[0] from None
    return Answers(time.perf_counter() - started, sorted(latencies))


async def ask(connection: Connection, path: str, body: bytes) -> str:
    """The status of an answer, which is read to its end."""
    reader, writer = connection
    writer.write(b"POST %s HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%s" % (path.encode(), len(body), body))
    return await read_status(reader)


async def read_status(reader: asyncio.StreamReader) -> str:
    """The status of an answer, which is read to its end."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = LENGTH.search(head)
    await reader.readexactly(int(length[1]) if length else 0)
    return head[9:12].decode()


async def _read(reader: asyncio.StreamReader) -> bool:
    """Read a successful answer, and say whether it is the connection's last."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = LENGTH.search(head)
    if length is None:
        raise BenchmarkError(f"an answer of no known length: {head!r}")
    body = await reader.readexactly(int(length[1]))
    status = head.partition(b"\r\n")[0].decode()
    if not status.startswith("HTTP/1.1 200 "):
        raise BenchmarkError(f"{status}: {body[:500].decode()}")
    return LAST.search(head) is not None
