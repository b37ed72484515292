"""Work that takes as long as there is much of it: a little is done at once, much in a thread, while others are
answered."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

LITTLE = 2**16
"""Bytes of JSON, or numbers to write: a millisecond, and less than handing it to a thread costs a busy server."""
MUCH = 2**20
"""What is over this waits for its like only, and what is not does not wait for it."""


class Aside:
    """Two threads: however much there is to do, the event loop shares the interpreter with no more of them."""

    def __init__(self) -> None:
        self._brief = ThreadPoolExecutor(1, "aside-brief")
        self._long = ThreadPoolExecutor(1, "aside-long")

    async def run(self, size: int, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do what has to do with so many bytes or numbers."""
        if size <= LITTLE:
            return work(*args, **kwargs)
        executor = self._brief if size <= MUCH else self._long
        return await asyncio.get_running_loop().run_in_executor(executor, lambda: work(*args, **kwargs))

    def close(self) -> None:
        """End the threads; what they have begun is finished, and nothing else begun."""
        self._brief.shutdown(wait=False, cancel_futures=True)
        self._long.shutdown(wait=False, cancel_futures=True)
