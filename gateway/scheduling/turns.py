"""A limit on how many do something at a time, shared between keys by the time that it takes them."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


@dataclass(slots=True)
class Account:
    """What a request is charged to: whose turns it takes, and what was done for it."""

    key: str = ""
    seconds: float = 0.0
    """CPU time of the threads and processes that worked for it."""


@dataclass(slots=True)
class _Flow:
    """One key's turns."""

    used: float
    """Seconds that it has held turns for, counted from where the others stood when it came."""
    held: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)

    @property
    def is_active(self) -> bool:
        return self.held > 0 or len(self.waiting) > 0


class Turns:
    """So many at a time. Of the keys that wait, the one that has held turns for the least time goes next.

    A turn is never taken back, so a key with long ones could hold them all. A key that holds none may therefore take a
    spare one beyond the size. One key alone has the use of `size`.

    Belongs to the event loop it is used in.
    """

    def __init__(self, size: int, spare: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._most = size + spare
        self._clock = clock
        self._counted_at = clock()
        self._flows: dict[str, _Flow] = {}
        """Of the keys that hold turns or wait, and of those that have used more than any of these."""

    @asynccontextmanager
    async def take(self, key: str) -> AsyncIterator[None]:
        """Wait for a turn, and give it back at the end."""
        await self.begin(key)
        try:
            yield
        finally:
            self.end(key)

    async def begin(self, key: str) -> None:
        """Wait for a turn; whoever has had it has to `end` it."""
        self._count()
        flow = self._flow(key)
        turn = asyncio.get_running_loop().create_future()
        flow.waiting.append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):  # `_admit` may have come past it
                    flow.waiting.remove(turn)
            else:  # it had come in the same moment
                self.end(key)
            raise

    def end(self, key: str) -> None:
        """Give a turn back."""
        self._count()
        self._flows[key].held -= 1
        self._admit()

    def _count(self) -> None:
        """Charge the turns that are held for the time since the last count."""
        now = self._clock()
        for flow in self._flows.values():
            flow.used += flow.held * (now - self._counted_at)
        self._counted_at = now

    def _flow(self, key: str) -> _Flow:
        """A key's flow. One that comes, or comes again, has no credit from the time when it was away."""
        least = min((flow.used for flow in self._flows.values() if flow.is_active), default=None)
        self._flows = {
            name: flow
            for name, flow in self._flows.items()
            if flow.is_active or (least is not None and flow.used > least)
        }
        return self._flows.setdefault(key, _Flow(least or 0.0))

    def _admit(self) -> None:
        while (flow := self._next()) is not None:
            turn = flow.waiting.popleft()
            if not turn.done():  # else it was given up
                flow.held += 1
                turn.set_result(None)

    def _next(self) -> _Flow | None:
        held = sum(flow.held for flow in self._flows.values())
        if held >= self._most:
            return None
        waiting = [flow for flow in self._flows.values() if flow.waiting and (held < self._size or not flow.held)]
        return min(waiting, key=lambda flow: flow.used, default=None)
