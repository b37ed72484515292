"""A limit on the memory that concurrent tasks use together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class MemoryLimit:
    """A weighted semaphore. Waiters are served in the order in which they came, however much they ask for."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._turn = asyncio.Lock()
        self._released = asyncio.Event()

    @asynccontextmanager
    async def reserve(self, amount: int) -> AsyncIterator[None]:
        """Wait until an amount, at most `size`, is free, and reserve it for the enclosed block."""
        async with self._turn:
            while self._free < amount:
                self._released.clear()
                await self._released.wait()
            self._free -= amount
        try:
            yield
        finally:
            self._free += amount
            self._released.set()
