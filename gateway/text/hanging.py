"""Runs work that may hang, such as reading from a dead network mount, in a thread of its own."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import Generic, TypeVar

Result = TypeVar("Result")


class NotDone(Exception):  # noqa: N818 - nothing has failed
    """The work has not finished yet. Not a TimeoutError, which the work itself may raise."""


class Work(Generic[Result]):
    """A function that runs in a daemon thread of its own.

    Unlike with `asyncio.to_thread`, a hanging thread takes no worker from a shared pool and does not block the exit of
    the process. Use it in the event loop that created it.
    """

    def __init__(self, function: Callable[[], Result], wait_s: float) -> None:
        """Start the function; `result` waits until `wait_s` seconds from now."""
        self._loop = asyncio.get_running_loop()
        self._ends = time.monotonic() + wait_s
        self._future: asyncio.Future[Result] = self._loop.create_future()
        Thread(target=self._run, args=(function,), daemon=True).start()

    async def result(self) -> Result:
        """Return what the function returned, or raise what it raised.

        Raises:
            NotDone: the function has not finished in time. It continues, and `result` may be called again.
        """
        await asyncio.wait({self._future}, timeout=max(0.0, self._ends - time.monotonic()))
        if not self._future.done():
            raise NotDone
        return self._future.result()

    def _run(self, function: Callable[[], Result]) -> None:
        try:
            settle = partial(self._future.set_result, function())
        except Exception as exc:  # noqa: BLE001 - `result` raises it
            settle = partial(self._fail, exc)
        with suppress(RuntimeError):  # the loop has closed meanwhile
            self._loop.call_soon_threadsafe(settle)

    def _fail(self, exc: Exception) -> None:
        self._future.set_exception(exc)
        self._future.exception()  # or asyncio logs it if `result` is not called again
