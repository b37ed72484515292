"""Graceful shutdown: accepted requests are finished, new ones are refused."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

RETIRE_S = 2.0
"""How long a worker that is replaced answers on the connections that it has, before it drains."""


class Drain:
    """Whether the gateway is stopping, and the requests that it still has to finish."""

    def __init__(self) -> None:
        self.began_at: float | None = None
        """Monotonic time at which the shutdown began, or None."""
        self.in_flight = 0
        """Number of unfinished requests."""
        self.gave_up = False
        """Whether the drain timeout has expired."""
        self._deadlines: set[asyncio.Timeout] = set()

    def begin(self) -> None:
        """Refuse new requests from now on."""
        self.began_at = time.monotonic()

    @contextmanager
    def ends(self, deadline: asyncio.Timeout) -> Iterator[None]:
        """Make a request's deadline expire when the drain timeout does, if it is later."""
        self._deadlines.add(deadline)
        try:
            yield
        finally:
            self._deadlines.discard(deadline)

    def give_up(self) -> None:
        """Expire the deadlines of all unfinished requests."""
        self.gave_up = True
        for deadline in self._deadlines:
            if not deadline.expired():
                deadline.reschedule(asyncio.get_running_loop().time())
        self._deadlines.clear()
