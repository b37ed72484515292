"""A limit on the memory that concurrent tasks of all workers use together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from gateway.board import Board

POLL_S = 0.02
"""How often to look whether another worker has released memory."""


class MemoryLimit:
    """A weighted semaphore. Waiters of one worker are served in the order in which they came, however much they ask
    for."""

    def __init__(self, size: int, board: Board | None = None) -> None:
        self.size = size
        self._board = board or Board()
        self._row = self._board.row("bytes of images")
        self._board.own[self._row] = 0
        self._turn = asyncio.Lock()
        self._released = asyncio.Event()

    @asynccontextmanager
    async def reserve(self, amount: int) -> AsyncIterator[None]:
        """Wait until an amount, at most `size`, is free, and reserve it for the enclosed block."""
        async with self._turn:
            while not self._take(amount):
                self._released.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S if self._board.workers > 1 else None):
                        await self._released.wait()
        try:
            yield
        finally:
            self._board.own[self._row] -= amount
            self._released.set()

    def _take(self, amount: int) -> bool:
        with self._board.locked():
            if self._board.total(self._row) + amount > self.size:
                return False
            self._board.own[self._row] += amount
            return True
