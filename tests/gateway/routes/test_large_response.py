"""Responses over a socket, from uvicorn with the gateway's protocol."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.budget import Budget
from gateway.drain import Drain
from gateway.middleware import HoldResponse
from gateway.routes.large_json import Part
from gateway.routes.large_response import PIECE_BYTES, LargeResponse
from gateway.scheduling.turns import Account
from gateway.server.protocol import Protocol
from tests.waiting import eventually_async

PARTS: Sequence[Part] = [b"[", b"1," * 7, memoryview(b"23," * PIECE_BYTES), *[b"4," * 100] * 500_000, b"5]"]
WHOLE = b"".join(PARTS)


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server, on which a request has been sent."""
    config = uvicorn.Config(app, http=Protocol, lifespan="off", log_config=None)
    config.load()
    state = uvicorn.Server(config).server_state
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Protocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    yield reader, writer
    writer.close()
    server.close()
    await server.wait_closed()


class Answering:
    """An app that answers with PARTS, and notes the pieces that have been passed on."""

    def __init__(self, responses: Budget, drain: Drain) -> None:
        self.sizes: list[int] = []
        self.is_over = False
        self._drain = drain
        self._guarded = HoldResponse(self._answer, responses)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["account"] = Account("key")
        await self._guarded(scope, receive, send)
        self.is_over = True

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting(message: Message) -> None:
            await send(message)
            self.sizes.append(len(message.get("body", b"")))

        response = LargeResponse(PARTS, self._drain)
        scope["state"]["response"].resize(response.size)
        await response(scope, receive, counting)


def test_client_that_does_not_read_gets_no_more_and_the_memory_stays_counted() -> None:
    async def use() -> None:
        responses = Budget("responses", 2 * len(WHOLE), 2 * len(WHOLE), 0)
        app = Answering(responses, Drain())
        async with serving(app) as (reader, _):
            sent = 0

            def stands() -> bool:
                nonlocal sent
                before, sent = sent, sum(app.sizes)
                return 0 < sent == before

            await eventually_async(stands)
            assert sent < len(WHOLE) / 2
            assert responses.size == len(WHOLE)
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"content-length: %d\r\n" % len(WHOLE) in head
            assert b"content-type: application/json\r\n" in head
            assert await reader.readexactly(len(WHOLE)) == WHOLE
            await eventually_async(lambda: app.is_over)
            assert responses.size == 0
            assert max(app.sizes) <= PIECE_BYTES
            assert len(app.sizes) < 3 * len(WHOLE) / PIECE_BYTES

    asyncio.run(use())


def test_others_get_their_turn_between_pieces() -> None:
    async def use() -> None:
        app = Answering(Budget("responses", 2 * len(WHOLE), 2 * len(WHOLE), 0), Drain())
        turns: set[int] = set()
        async with serving(app) as (reader, _):
            reading = asyncio.ensure_future(reader.read(2**20))
            while not app.is_over:
                turns.add(len(app.sizes))
                if reading.done():
                    reading = asyncio.ensure_future(reader.read(2**20))
                await asyncio.sleep(0)
            reading.cancel()
        assert len(turns) > len(WHOLE) / PIECE_BYTES / 2

    asyncio.run(use())


def test_client_that_leaves_frees_the_memory() -> None:
    async def use() -> None:
        responses = Budget("responses", 2 * len(WHOLE), 2 * len(WHOLE), 0)
        app = Answering(responses, Drain())
        async with serving(app) as (reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            assert responses.size == len(WHOLE)
            writer.transport.abort()
            await eventually_async(lambda: app.is_over)
            assert responses.size == 0

    asyncio.run(use())


def test_stopping_server_does_not_wait_for_a_client_that_does_not_read() -> None:
    async def use() -> None:
        drain = Drain()
        app = Answering(Budget("responses", 2 * len(WHOLE), 2 * len(WHOLE), 0), drain)
        async with serving(app) as (reader, _):
            await reader.readuntil(b"\r\n\r\n")
            drain.give_up()
            await eventually_async(lambda: app.is_over)
            received = len(await reader.read())
            assert received < len(WHOLE)

    asyncio.run(use())
