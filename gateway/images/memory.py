"""Limits on the memory that images of all workers use together."""

import asyncio
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import numpy as np
from numpy.typing import NDArray

from gateway.board import Board
from gateway.budget import Budget, Held

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


class InFlight:
    """Counts arrays for as long as they exist."""

    def __init__(self, what: str, max_bytes: int, board: Board | None = None) -> None:
        """Set the limit.

        Args:
            what: the arrays hold, for messages.
            max_bytes: for all workers together. One API key may hold half of it.
            board: shared by the workers.
        """
        self._budget = Budget(what, max_bytes, max_bytes // 2, 0, board)

    @property
    def size(self) -> int:
        """Bytes of all workers."""
        return self._budget.size

    def count(self, array: NDArray[np.uint8], key: str) -> None:
        """Count an array, and the views of it, until the last of them is gone.

        Args:
            array: owns its memory, or is made of a buffer.
            key: the owner of the API key.

        Raises:
            Overloaded: the limit is reached.
            RequestTooLarge: even alone, the array exceeds it.
        """
        held = self._budget.hold(key)
        held.resize(array.nbytes)
        weakref.finalize(array, _release, asyncio.get_running_loop(), held).atexit = False


def _release(loop: asyncio.AbstractEventLoop, held: Held) -> None:
    """Release in the event loop: an array may end in any thread, and while this thread holds the lock of the board."""
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(held.resize, 0)
