"""A limit on how many do something at a time, with turns between keys."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """So many at a time. Of those that wait, each key gets one turn after the other, however many it has waiting."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By key, in the order of the keys' turns."""

    @asynccontextmanager
    async def take(self, key: str) -> AsyncIterator[None]:
        """Wait for a turn, and give it back at the end."""
        if self._free and not self._waiting:
            self._free -= 1
        else:
            await self._wait(key)
        try:
            yield
        finally:
            self._give_back()

    async def _wait(self, key: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it had come in the same moment
                self._give_back()
            raise

    def _give_back(self) -> None:
        while self._waiting:
            key, own = next(iter(self._waiting.items()))
            del self._waiting[key]
            turn = own.popleft()
            if own:
                self._waiting[key] = own  # behind all others
            if not turn.done():  # else it was given up
                turn.set_result(None)
                return
        self._free += 1
