"""A thread pool that API keys share fairly."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from gateway.scheduling.turns import Account, Turns

Result = TypeVar("Result")


class Threads:
    """A thread pool. Use it in one event loop only."""

    def __init__(self, count: int, spare: int) -> None:
        """Create the pool; threads start on demand.

        Args:
            count: threads that one key may use at a time.
            spare: further threads for keys that have none; the kernel shares the cores among all threads.
        """
        self.count = count
        self._turns = Turns(count, spare)
        self._pool = ThreadPoolExecutor(count + spare, thread_name_prefix="work")

    def close(self) -> None:
        """Wait for running work, then stop the threads."""
        self._pool.shutdown()

    async def run(self, account: Account, work: Callable[[], Result]) -> Result:
        """Run work in a thread when it is the key's turn, and charge the CPU time to the account.

        Threads cannot be stopped: if the caller is cancelled, the turn ends when the work does.
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
        done.add_done_callback(_retrieve)  # or asyncio logs the error of work whose caller was cancelled
        return await asyncio.shield(done)

    def _end(self, account: Account, seconds: float) -> None:
        account.seconds += seconds
        self._turns.end(account.key)


def _retrieve(done: asyncio.Future[Result]) -> None:
    if not done.cancelled():
        done.exception()
