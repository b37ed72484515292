import asyncio
import os
import socket
from collections.abc import Sequence

import pytest

from gateway.board import Board
from gateway.server.listener import Listener, listen
from loadtest.tools.servers import HOST, free_ports
from tests.waiting import eventually_async


class Worker(asyncio.Protocol):
    """One that only accepts connections."""

    def __init__(self, sockets: Sequence[socket.socket], board: Board) -> None:
        self.listener = Listener(sockets, board)
        self.connections: list[asyncio.BaseTransport] = []

    async def open(self) -> None:
        await self.listener.open(lambda: self, self.connections.__len__)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.connections.append(transport)


def test_workers_share_connections_evenly() -> None:
    """Both run in one event loop, as two that are equally fast."""

    async def run() -> list[int]:
        (port,) = free_ports(1)
        sockets = listen(HOST, port)
        shared = Board.create(2)
        workers = [
            Worker([one.dup() for one in sockets], Board(2, shared.file, column)) for column in range(shared.workers)
        ]
        for worker in workers:
            await worker.open()
        clients = [socket.create_connection((HOST, port)) for _ in range(8)]
        await eventually_async(lambda: sum(len(worker.connections) for worker in workers) == len(clients))
        for worker in workers:
            worker.listener.close()
        for client in (*clients, *sockets):
            client.close()
        os.close(shared.file)
        return [len(worker.connections) for worker in workers]

    assert asyncio.run(run()) == [4, 4]


def test_worker_that_hangs_holds_up_no_connections_behind() -> None:
    async def run() -> None:
        (port,) = free_ports(1)
        sockets = listen(HOST, port)
        shared = Board.create(2)
        row = shared.row("connections")
        worker = Worker(sockets, Board(2, shared.file, 1))
        await worker.open()
        clients = [socket.create_connection((HOST, port)) for _ in range(10)]
        await eventually_async(lambda: worker.listener.update() == len(worker.connections) == 10)
        shared.own[row] = 0
        clients += [socket.create_connection((HOST, port)) for _ in range(5)]
        while worker.listener.update() == 10:  # noqa: ASYNC110 - looks in each iteration of the event loop
            await asyncio.sleep(0)
        assert worker.listener.update() == 15
        await eventually_async(lambda: len(worker.connections) == 15)
        worker.listener.close()
        assert shared.values(row) == [0]
        for client in clients:
            client.close()
        os.close(shared.file)

    asyncio.run(run())


def test_address_that_is_not_here_is_an_error() -> None:
    with pytest.raises(OSError, match="Cannot assign requested address"):
        listen("192.0.2.1", 0)


def test_ipv6_and_names_are_listened_at() -> None:
    (port,) = free_ports(1)
    sockets = listen("localhost", port)
    assert {one.getsockname()[1] for one in sockets} == {port}
    for one in sockets:
        one.close()
