"""uvicorn's server with a graceful shutdown."""

import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

import uvicorn

from gateway.drain import Drain

TICKS_PER_SECOND = 10
"""How often uvicorn calls on_tick."""
GIVE_UP_S = 1.0
"""How long to wait for the error responses of requests that were not finished in time."""


class Server(uvicorn.Server):
    """Stops listening only after every accepted request has a response; requests unfinished after `timeout_s` get an
    error. Touches the heartbeat file, if there is one, every second."""

    def __init__(
        self, config: uvicorn.Config, drain: Drain, timeout_s: float, heartbeat_file: Path | None = None
    ) -> None:
        super().__init__(config)
        self._heartbeat_file = heartbeat_file
        self._drain = drain
        self._timeout_s = timeout_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start draining; a second signal stops the server immediately."""
        if self._drain.began_at is None:
            self._drain.begin()
            self._captured_signals.append(sig)  # raised again at the end, as uvicorn does
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Check whether draining is over. uvicorn calls this ten times per second."""
        if self._heartbeat_file is not None and counter % TICKS_PER_SECOND == 0:
            with suppress(OSError):  # a missing folder must not stop the server
                self._heartbeat_file.touch()
        if self._drain.began_at is not None:
            over_s = time.monotonic() - self._drain.began_at - self._timeout_s
            if not self._drain.in_flight or over_s > GIVE_UP_S:
                self.should_exit = True
            elif over_s > 0:
                self._drain.give_up()
        return await super().on_tick(counter)
