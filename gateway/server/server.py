"""uvicorn's server, which drains before it stops."""

import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

import uvicorn

from gateway.drain import Drain

TICKS_PER_SECOND = 10
"""Of uvicorn's loop."""
GIVE_UP_S = 1.0
"""Time for the error answers of requests that were not finished in time."""


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
        if self._heartbeat_file is not None and counter % TICKS_PER_SECOND == 0:
            with suppress(OSError):  # its folder may be gone, which is no reason to end
                self._heartbeat_file.touch()
        if self._drain.began_at is not None:
            over_s = time.monotonic() - self._drain.began_at - self._timeout_s
            if not self._drain.in_flight or over_s > GIVE_UP_S:
                self.should_exit = True
            elif over_s > 0:
                self._drain.give_up()
        return await super().on_tick(counter)
