"""Ends the work for a request when its time is over, or when its client disconnects."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

WATCH_AFTER_S = 0.1
"""When to set the deadline and to start watching the connection. Requests that are answered sooner pay for one timer
only."""


class Presence:
    """Expires a request's deadline when its time is over, or when its client disconnects."""

    def __init__(self, deadline: asyncio.Timeout, timeout_s: float) -> None:
        """Give a request so much time, from when the context is entered; the deadline has none yet."""
        self.is_gone = False
        """Whether the client has disconnected."""
        self._deadline = deadline
        self._timeout_s = timeout_s
        self._receive: Callable[[], Awaitable[Any]] | None = None
        self._has_begun = False
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._ends_at = loop.time() + self._timeout_s
        self._timer = loop.call_later(min(WATCH_AFTER_S, self._timeout_s), self._begin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def watch(self, receive: Callable[[], Awaitable[Any]]) -> None:
        """Start watching. The body must have been read, so that the only message left is the disconnection."""
        self._receive = receive
        if self._has_begun:
            self._start_watching()

    def _begin(self) -> None:
        self._has_begun = True
        if self._deadline.when() is None:  # otherwise the server is stopping, and gave up
            self._deadline.reschedule(self._ends_at)
        self._start_watching()

    def _start_watching(self) -> None:
        if self._receive is not None and self._watcher is None:
            self._watcher = asyncio.ensure_future(self._wait(self._receive))

    async def _wait(self, receive: Callable[[], Awaitable[Any]]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        if not self._deadline.expired():
            self._deadline.reschedule(asyncio.get_running_loop().time())
