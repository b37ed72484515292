"""Work that may never end, such as reading from a network mount that hangs, in threads of its own."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import Generic, TypeVar

Result = TypeVar("Result")


class NotDone(Exception):  # noqa: N818 - nothing has failed
    """A function has not ended yet. No TimeoutError, which a function may raise itself."""


class Work(Generic[Result]):
    """A function at work in a thread of its own, from now on.

    Unlike those of `asyncio.to_thread`, this thread takes no place from others while it hangs, and the process does not
    wait for it when it ends. Belongs to the event loop it is made in.
    """

    def __init__(self, function: Callable[[], Result], wait_s: float) -> None:
        """Start.

        Args:
            function: what to do.
            wait_s: how long to wait for its result, counted from here.
        """
        self._loop = asyncio.get_running_loop()
        self._ends = time.monotonic() + wait_s
        self._future: asyncio.Future[Result] = self._loop.create_future()
        Thread(target=self._run, args=(function,), daemon=True).start()

    async def result(self) -> Result:
        """What the function returned or raised.

        Raises:
            NotDone: it has not ended yet. It goes on, and may be asked again.
        """
        await asyncio.wait({self._future}, timeout=max(0.0, self._ends - time.monotonic()))
        if not self._future.done():
            raise NotDone
        return self._future.result()

    def _run(self, function: Callable[[], Result]) -> None:
        try:
            settle = partial(self._future.set_result, function())
        except Exception as exc:  # noqa: BLE001 - whatever it is, `result` raises it
            settle = partial(self._fail, exc)
        with suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(settle)

    def _fail(self, exc: Exception) -> None:
        self._future.set_exception(exc)
        self._future.exception()  # or asyncio would complain where nobody asks any more
