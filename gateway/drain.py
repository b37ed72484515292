"""Stopping without losing anything: what was accepted is finished, what comes then is refused."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Drain:
    """Whether the gateway is stopping, and what it still has to finish."""

    def __init__(self) -> None:
        self.began_at: float | None = None
        """On the monotonic clock."""
        self.in_flight = 0
        """Requests."""
        self.gave_up = False
        """Whether the time to finish was over."""
        self._deadlines: set[asyncio.Timeout] = set()

    def begin(self) -> None:
        """Accept nothing more."""
        self.began_at = time.monotonic()

    @contextmanager
    def ends(self, deadline: asyncio.Timeout) -> Iterator[None]:
        """Let a deadline come early, if what is under it is not done when the time to finish is over."""
        self._deadlines.add(deadline)
        try:
            yield
        finally:
            self._deadlines.discard(deadline)

    def give_up(self) -> None:
        """Let all deadlines come."""
        self.gave_up = True
        for deadline in self._deadlines:
            if not deadline.expired():
                deadline.reschedule(asyncio.get_running_loop().time())
        self._deadlines.clear()
