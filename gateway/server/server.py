"""uvicorn's server with a graceful shutdown."""

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import socket
from types import FrameType

import uvicorn

from gateway.board import BEATS, LISTENS, READY, Board
from gateway.drain import RETIRE_S, Drain
from gateway.server.listener import Listener

TICKS_PER_SECOND = 10
"""How often uvicorn calls on_tick."""
GIVE_UP_S = 1.0
"""How long to wait for the error responses of requests that were not finished in time."""
READY_S = 30.0
"""How long a worker waits to be as ready as others before it accepts connections."""


class Server(uvicorn.Server):
    """Stops listening only after every accepted request has a response; requests unfinished after `timeout_s` get an
    error. Touches the heartbeat file, if there is one, every second."""

    def __init__(
        self,
        config: uvicorn.Config,
        drain: Drain,
        timeout_s: float,
        listener: Listener,
        board: Board,
        heartbeat_file: Path | None = None,
    ) -> None:
        """Serve an app.

        Args:
            config: with the app; its host and port do not count.
            drain: how the app learns that the server is stopping.
            timeout_s: how long accepted requests have to finish.
            listener: accepts the connections.
            board: tells the parent that this worker lives.
            heartbeat_file: is touched every second.
        """
        super().__init__(config)
        self._heartbeat_file = heartbeat_file
        self._drain = drain
        self._timeout_s = timeout_s
        self._listener = listener
        self._board = board
        self._beats, self._ready, self._listens = map(board.row, (BEATS, READY, LISTENS))
        self._is_replaced = False
        self._retired_at: float | None = None
        self._started_at = time.monotonic()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Also retire on SIGHUP, unless it is to be ignored, as nohup makes it."""
        with super().capture_signals():
            if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
                signal.signal(signal.SIGHUP, self._replaced)
            yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start draining; a second signal stops the server immediately."""
        if self._board.workers > 1 and sig == signal.SIGINT:
            return  # Ctrl-C reaches all processes, but the parent says what to do
        if self._captured_signals:
            super().handle_exit(sig, frame)
            return
        self._captured_signals.append(sig)  # raised again at the end, as uvicorn does
        if self._drain.began_at is None:
            self._drain.begin()

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Start the app. The listener accepts connections, not uvicorn."""
        del sockets
        await super().startup(sockets=[])

    async def on_tick(self, counter: int) -> bool:
        """Listen, retire and stop as the time comes. uvicorn calls this ten times per second."""
        self._board.own[self._beats] = counter
        if self._heartbeat_file is not None and counter % TICKS_PER_SECOND == 0:
            with suppress(OSError):  # a missing folder must not stop the server
                self._heartbeat_file.touch()
        is_over = await super().on_tick(counter)
        now = time.monotonic()
        if self._is_replaced:
            self._retire(now)
        elif self._listener.is_open:
            self._listener.update()
        elif not self._waits(now):
            await self._listener.open(self._protocol, lambda: len(self.server_state.connections))
            self._board.own[self._listens] = 1
        if self._drain.began_at is not None:
            over_s = now - self._drain.began_at - self._timeout_s
            if not self._drain.in_flight or over_s > GIVE_UP_S:
                self.should_exit = True
            elif over_s > 0:
                self._drain.give_up()
        return is_over or self.should_exit

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Stop accepting connections, and close those that there are."""
        self._listener.close()
        await super().shutdown(sockets)

    def _waits(self, now: float) -> bool:
        """Whether to leave connections to other workers, which are ready, for now."""
        is_ready = self._board.own[self._ready] == 1
        return not is_ready and any(self._board.values(self._ready)) and now - self._started_at < READY_S

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    def _replaced(self, sig: int, frame: FrameType | None) -> None:
        del sig, frame
        self._is_replaced = True

    def _retire(self, now: float) -> None:
        """Accept no more connections, and close each after its next response, so that clients move to other workers.
        Then drain what is left."""
        if self._retired_at is None:
            self._retired_at = now
            self._listener.close()
            self._board.own[self._listens] = 0
            self.config.encoded_headers.append((b"connection", b"close"))
            self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        if self._drain.began_at is None and (not self.server_state.connections or now - self._retired_at > RETIRE_S):
            self._drain.begin()
            for connection in list(self.server_state.connections):
                connection.shutdown()  # closes it if it is idle: a request would get 503 while others are finished
