"""Work in threads, so that the event loop goes on meanwhile, with turns between keys."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from gateway.scheduling.turns import Account, Turns

Result = TypeVar("Result")


class Threads:
    """A pool of threads. Belongs to the event loop it is used in."""

    def __init__(self, count: int, spare: int) -> None:
        """Start none yet.

        Args:
            count: how many work at a time.
            spare: more of them, for keys that have none: the kernel shares the cores between all.
        """
        self.count = count
        """How many of one key work at a time."""
        self._turns = Turns(count, spare)
        self._pool = ThreadPoolExecutor(count + spare, thread_name_prefix="work")

    def close(self) -> None:
        """Wait for what is under way, and end them."""
        self._pool.shutdown()

    async def run(self, account: Account, work: Callable[[], Result]) -> Result:
        """Do work in a thread when its turn has come.

        A thread cannot be stopped: if whoever waits gives up, the turn is over when the work is.
        """
        await self._turns.begin(account.key)
        loop = asyncio.get_running_loop()

        def do() -> Result:
            began = time.thread_time()
            try:
                return work()
            finally:
                loop.call_soon_threadsafe(self._end, account, time.thread_time() - began)

        done = loop.run_in_executor(self._pool, do)
        done.add_done_callback(_look)  # or asyncio would log the error of work that nobody waits for any more
        return await asyncio.shield(done)

    def _end(self, account: Account, seconds: float) -> None:
        account.seconds += seconds
        self._turns.end(account.key)


def _look(done: asyncio.Future[Result]) -> None:
    if not done.cancelled():
        done.exception()
