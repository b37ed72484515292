"""Cancels the work for a request when its client disconnects."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

WATCH_AFTER_S = 0.1
"""When to start watching the connection. Requests that are answered sooner do not pay for it."""


class Presence:
    """Expires a request's deadline when its client disconnects."""

    def __init__(self, deadline: asyncio.Timeout) -> None:
        self.is_gone = False
        """Whether the client has disconnected."""
        self._deadline = deadline
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def watch(self, receive: Callable[[], Awaitable[Any]]) -> None:
        """Start watching. The body must have been read, so that the only message left is the disconnection."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._start_watching, receive)

    def _start_watching(self, receive: Callable[[], Awaitable[Any]]) -> None:
        self._watcher = asyncio.ensure_future(self._wait(receive))

    async def _wait(self, receive: Callable[[], Awaitable[Any]]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        if not self._deadline.expired():
            self._deadline.reschedule(asyncio.get_running_loop().time())
