"""A limit on how much of something is used at a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Budget:
    """So much, shared by those who hold a part of it; who comes first is served first, however much it asks for."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._turn = asyncio.Lock()
        self._returned = asyncio.Event()

    @asynccontextmanager
    async def hold(self, amount: int) -> AsyncIterator[None]:
        """Wait for an amount, at most `size`, and give it back at the end."""
        async with self._turn:
            while self._free < amount:
                self._returned.clear()
                await self._returned.wait()
            self._free -= amount
        try:
            yield
        finally:
            self._free += amount
            self._returned.set()
