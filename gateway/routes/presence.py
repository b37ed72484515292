"""Whether clients still wait for their answers: the work for one that has hung up ends."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

LOOK_AFTER_S = 0.1
"""Requests that are answered sooner cost no look at their clients."""


class Presence:
    """Lets a request's deadline come when its client hangs up."""

    def __init__(self, deadline: asyncio.Timeout) -> None:
        self.is_gone = False
        """Whether it has hung up."""
        self._deadline = deadline
        self._timer: asyncio.TimerHandle | None = None
        self._look: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        """Look when `begin` says so, and until the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._look is not None:
            self._look.cancel()

    def begin(self, receive: Callable[[], Awaitable[Any]]) -> None:
        """The body has been read: from now on, what comes in can only be that the client hangs up."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_AFTER_S, self._begin_look, receive)

    def _begin_look(self, receive: Callable[[], Awaitable[Any]]) -> None:
        self._look = asyncio.ensure_future(self._wait(receive))

    async def _wait(self, receive: Callable[[], Awaitable[Any]]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        if not self._deadline.expired():
            self._deadline.reschedule(asyncio.get_running_loop().time())
