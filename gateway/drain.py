"""Stopping without losing anything: what was accepted is finished, what comes then is refused."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import uvicorn

TICKS_A_SECOND = 10
"""Of uvicorn's loop."""
GIVE_UP_S = 1.0
"""For the answers of those that could not be finished in time."""


class Drain:
    """Whether the gateway is stopping, and what it still has to finish."""

    def __init__(self) -> None:
        self.began_at: float | None = None
        """On the monotonic clock."""
        self.under_way = 0
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


class Server(uvicorn.Server):
    """Stops listening only when all that was accepted is answered: what is not done in time, with an error. Gives a
    sign of life each second, if there is a file for it."""

    def __init__(
        self, config: uvicorn.Config, drain: Drain, timeout_s: float, heartbeat_file: Path | None = None
    ) -> None:
        super().__init__(config)
        self._heartbeat_file = heartbeat_file
        self._drain = drain
        self._timeout_s = timeout_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; a second signal stops at once."""
        if self._drain.began_at is None:
            self._drain.begin()
            self._captured_signals.append(sig)  # raised again in the end, as uvicorn does
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Look, ten times a second, whether it is time to stop."""
        if self._heartbeat_file is not None and counter % TICKS_A_SECOND == 0:
            with suppress(OSError):  # its folder may be gone, which is no reason to end
                self._heartbeat_file.touch()
        if self._drain.began_at is not None:
            over_s = time.monotonic() - self._drain.began_at - self._timeout_s
            if not self._drain.under_way or over_s > GIVE_UP_S:
                self.should_exit = True
            elif over_s > 0:
                self._drain.give_up()
        return await super().on_tick(counter)
