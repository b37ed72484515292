"""A semaphore that API keys share fairly, by the time that they hold it."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


@dataclass(slots=True)
class Account:
    """The API key of a request, and the CPU time spent on it."""

    key: str = ""
    """An id of the key, not the key itself; empty on a server without keys."""
    seconds: float = 0.0
    """CPU time of threads and processes that worked for the request."""
    is_background: bool = False
    """Whether its work yields to that of all other requests."""


@dataclass(slots=True)
class _Flow:
    """The turns of one key."""

    used: float
    """Seconds for which it has held turns, starting at the least-used active flow when the key arrived."""
    held: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)

    @property
    def is_active(self) -> bool:
        return self.held > 0 or len(self.waiting) > 0


class Turns:
    """A fair semaphore. The waiting key that has held turns for the least time goes next.

    Turns are not preempted, so one key with long turns could hold all of them. A key that holds none may therefore take
    one of `spare` further turns. A single key never holds more than `size`.

    Use it in one event loop only.
    """

    def __init__(self, size: int, spare: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._limit = size + spare
        self._clock = clock
        self._counted_at = clock()
        self._flows: dict[str, _Flow] = {}
        """By key: active flows, and inactive ones that have used more than any active one."""

    @asynccontextmanager
    async def take(self, key: str) -> AsyncIterator[None]:
        """Hold a turn."""
        await self.begin(key)
        try:
            yield
        finally:
            self.end(key)

    async def begin(self, key: str) -> None:
        """Wait for a turn. The caller must `end` it."""
        self._count()
        flow = self._flow(key)
        turn = asyncio.get_running_loop().create_future()
        flow.waiting.append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):  # `_admit` may have removed it
                    flow.waiting.remove(turn)
            else:  # granted just before the cancellation
                self.end(key)
            raise

    def end(self, key: str) -> None:
        """Release a turn."""
        self._count()
        self._flows[key].held -= 1
        self._admit()

    def _count(self) -> None:
        """Charge held turns for the time since the last count."""
        now = self._clock()
        for flow in self._flows.values():
            flow.used += flow.held * (now - self._counted_at)
        self._counted_at = now

    def _flow(self, key: str) -> _Flow:
        """The flow of a key. A key that was away gets no credit for that time."""
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
            if not turn.done():  # otherwise it was cancelled
                flow.held += 1
                turn.set_result(None)

    def _next(self) -> _Flow | None:
        held = sum(flow.held for flow in self._flows.values())
        if held >= self._limit:
            return None
        waiting = [flow for flow in self._flows.values() if flow.waiting and (held < self._size or not flow.held)]
        return min(waiting, key=lambda flow: flow.used, default=None)
