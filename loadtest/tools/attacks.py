"""What a hostile client sends: bodies, texts, images and URLs made to cost much more than they look."""

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from PIL import Image

from loadtest.tools import hostile
from loadtest.tools.client import read_status
from loadtest.tools.pictures import file

MIB = 2**20
MOST = 32 * MIB - 4096
"""Bytes of the largest body that is taken."""
ANSWER_S = 45.0
"""How long an answer is waited for: more than a request may take."""
IMAGE_MODEL = "minilm-pictogram"
EMBEDDINGS, RERANK, TOKENIZE = "/v1/embeddings", "/v1/rerank", "/tokenize"


@dataclass(slots=True)
class Target:
    """A server, and what it has answered."""

    port: int
    key: str
    silent_port: int
    """Of a server that takes connections and says nothing."""
    dripping_port: int
    """Of one that sends an image a byte at a time."""
    statuses: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Attack:
    """One way, over so many connections at a time, again and again until it is cancelled."""

    name: str
    connections: int
    once: Callable[[Target, bytes], Awaitable[None]]
    body: Callable[[], bytes] = bytes
    """Makes what is sent."""
    is_measured: bool = False
    """Whether memory is to be seen in relation to the bodies of all connections together."""

    async def run(self, target: Target, body: bytes) -> None:
        """Attack."""

        async def again() -> None:
            while True:
                with suppress(OSError, asyncio.IncompleteReadError):
                    await self.once(target, body)

        async with asyncio.TaskGroup() as group:
            for _ in range(self.connections):
                group.create_task(again())


def attacks() -> list[Attack]:
    """All of them."""
    return [Attack("nothing", 1, _nothing), *_bodies(), *_texts(), *_slow(), *_images(), *_urls()]


async def _nothing(_: Target, _body: bytes) -> None:
    await asyncio.sleep(60)


def _bodies() -> list[Attack]:
    def short() -> bytes:
        return b'{"input":[' + b",".join([b'"a"'] * (MOST // 4)) + b"]}"

    def fields(value: bytes) -> bytes:
        return b'{"input":"a",' + b",".join(b'"%d":%s' % (i, value) for i in range(150_000)) + b"}"

    def documents() -> bytes:
        document = {"text": "a"} | {f"field{i}": "" for i in range(30)}
        return json.dumps({"query": "what?", "documents": [document] * 2000}).encode()

    def escaped() -> bytes:
        return json.dumps({"input": ["\u6587" * (MOST // 6 // 64 - 8)] * 64, "truncate": True}).encode()

    return [
        _posts("32 MiB of short strings", short),
        _posts("32 MiB of short strings, three at once", short, connections=3),
        _posts("309,000 empty lists, on 16 connections", lambda: _listed(b"[]", 309_000), connections=16),
        _posts("100,000 nested lists", lambda: b'{"input":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        _posts("150,000 unknown fields", lambda: fields(b"0")),
        _posts("150,000 unknown fields, each null", lambda: fields(b"null")),
        _posts("2,000 documents with 30 more fields each", documents, path=RERANK),
        _posts("299,000 token ids, on 4 connections", lambda: _listed(b"2000", 299_000), connections=4),
        _posts(
            "299,000 token ids to truncate, on 4 connections",
            lambda: _listed(b"2000", 299_000)[:-1] + b',"truncate":true}',
            connections=4,
        ),
        _posts("32 MiB of commas in 64 texts", lambda: _embedding(["," * (MOST // 64 - 8)] * 64)),
        _posts("32 MiB of Chinese in UTF-8", lambda: _embedding(["\u6587" * (MOST // 3 // 64 - 8)] * 64)),
        _posts("32 MiB of Chinese in escapes, three at once", escaped, connections=3),
        _posts("one text of 32 MiB with an emoji", lambda: _embedding(["\U0001f600" + "a" * (MOST - 64)])),
        _posts("a model name of 15 MiB", lambda: b'{"input":"a","model":"%s"}' % (b"\x7f" * 15 * MIB)),
        _posts("an enum value of 15 MiB", lambda: b'{"input":"a","truncation_side":"%s"}' % (b"\x7f" * 15 * MIB)),
        _posts(
            "two strings of 15 MiB of blanks for an image model",
            lambda: json.dumps({"model": IMAGE_MODEL, "input": [" " * 15 * MIB] * 2, "truncate": True}).encode(),
        ),
        _posts("32 MiB of lone surrogates", lambda: b'{"input":"' + b"\\ud83d" * ((MOST - 64) // 6) + b'"}'),
        _posts("32 MiB of invalid JSON", lambda: b"[" + b"\xff" * (MOST - 2)),
        _posts("2,000 documents of 16 KB", lambda: _ranking(["word " * 3200] * 2000), path=RERANK),
        _posts(
            "two images of 15 MiB in base64, a third of it spaces", lambda: _of_images([hostile.spaced_base64()] * 2)
        ),
    ]


def _texts() -> list[Attack]:
    # Words of a hundred letters, of each of which a WordPiece tokenizer looks up every part.
    unknown = ("\u0416" * 100 + " ") * 325
    return [
        _posts("100 texts of unknown words, on 8 connections", lambda: _embedding([unknown] * 100), connections=8),
        _posts(
            "100 documents of unknown words, on 8 connections",
            lambda: _ranking([unknown] * 100),
            path=RERANK,
            connections=8,
        ),
        _posts(
            "tokens of unknown words, on 8 connections",
            lambda: json.dumps({"inputs": [unknown] * 9}).encode(),
            path=TOKENIZE,
            connections=8,
        ),
        _posts("64 texts of 500 words, on 8 connections", lambda: _embedding(["word " * 500] * 64), connections=8),
    ]


def _slow() -> list[Attack]:
    return [
        Attack("a refused body in one-byte chunks, on 16 connections", 16, partial(_chunks, key="wrong")),
        Attack("a body in one-byte chunks, on 16 connections", 16, partial(_chunks, key=None)),
    ]


def _images() -> list[Attack]:
    def large() -> bytes:
        return file(Image.linear_gradient("L").resize((6000, 6000)).convert("RGB"), "PNG")

    def scans() -> bytes:
        return hostile.jpeg_of_many_scans()[: 4 * MIB]

    def tiny() -> bytes:
        return file(Image.new("RGB", (2, 2), "teal"), "PNG")

    def parts() -> bytes:
        content = [{"type": "text", "text": ""}] * 2000
        return json.dumps({"model": IMAGE_MODEL, "input": [{"content": content}] * 15}).encode()

    def wide(count: int) -> bytes:
        return _pictures([hostile.run_length_bmp(1_000_000, 40)] * count)

    return [
        _posts("2,000 images of four pixels, on 4 connections", lambda: _pictures([tiny()] * 2000), connections=4),
        _posts("contents of 30,000 empty texts, on 8 connections", parts, connections=8),
        _posts("64 images of 224 bytes that are a million pixels wide", lambda: wide(64), connections=2),
        _posts("8 large images after a broken one", lambda: _pictures([b"broken", *[large()] * 8]), connections=2),
        _posts("JPEGs with thousands of scans, on 4 connections", lambda: _pictures([scans()] * 2), connections=4),
        _posts(
            "JPEGs of EXIF segments, on 4 connections", lambda: _pictures([hostile.jpeg_of_exif_parts()]), connections=4
        ),
        _posts("PNGs of 36 million pixels, on 4 connections", lambda: _pictures([large()] * 2), connections=4),
        Attack("256 such images, and the client disconnects", 4, _hang_up, lambda: wide(256)),
    ]


def _urls() -> list[Attack]:
    return [
        Attack("64 URLs of a silent server, on 3 connections", 3, partial(_fetch, server="silent_port", count=64)),
        Attack("64 URLs of a dripping server, on 3 connections", 3, partial(_fetch, server="dripping_port", count=64)),
    ]


def _posts(name: str, body: Callable[[], bytes], *, path: str = EMBEDDINGS, connections: int = 1) -> Attack:
    return Attack(name, connections, partial(_post, path=path), body, is_measured=True)


def _listed(value: bytes, count: int) -> bytes:
    return b'{"input":[' + b",".join([value] * count) + b"]}"


def _embedding(texts: Sequence[str]) -> bytes:
    return json.dumps({"input": texts, "truncate": True}, ensure_ascii=False).encode()


def _ranking(documents: Sequence[str]) -> bytes:
    return json.dumps({"query": "what?", "documents": documents}, ensure_ascii=False).encode()


def _pictures(files: Sequence[bytes]) -> bytes:
    return _of_images([base64.b64encode(one).decode() for one in files])


def _of_images(images: Sequence[str]) -> bytes:
    return json.dumps({"model": IMAGE_MODEL, "input": [{"image": image} for image in images]}).encode()


def _head(target: Target, path: str, framing: str, key: str | None = None) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key or target.key}\r\n"
        f"content-type: application/json\r\n{framing}\r\n\r\n"
    ).encode()


async def _post(target: Target, body: bytes, path: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port, limit=MIB)
    try:
        writer.write(_head(target, path, f"content-length: {len(body)}") + body)
        await _answer(target, reader)
    finally:
        writer.close()


async def _fetch(target: Target, _body: bytes, server: str, count: int) -> None:
    url = f"http://127.0.0.1:{getattr(target, server)}/a.png"
    await _post(target, _of_images([url] * count), EMBEDDINGS)


async def _chunks(target: Target, _body: bytes, key: str | None) -> None:
    """Half a megabyte, each byte a chunk."""
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port, limit=MIB)
    try:
        writer.write(_head(target, EMBEDDINGS, "transfer-encoding: chunked", key))
        piece = b"1\r\n \r\n" * 4096
        for _ in range(128):
            writer.write(piece)
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await _answer(target, reader)
    finally:
        writer.close()


async def _hang_up(target: Target, body: bytes) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", target.port)
    writer.write(_head(target, EMBEDDINGS, f"content-length: {len(body)}") + body)
    await asyncio.sleep(1)
    writer.transport.abort()
    target.statuses["disconnected"] += 1


async def _answer(target: Target, reader: asyncio.StreamReader) -> None:
    """Count an answer, which is read to its end."""
    try:
        async with asyncio.timeout(ANSWER_S):
            status = await read_status(reader)
    except (OSError, asyncio.IncompleteReadError):
        target.statuses["cut off"] += 1
    except TimeoutError:
        target.statuses["lost"] += 1
    else:
        target.statuses[status] += 1
