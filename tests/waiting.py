"""Waiting for what happens by itself, in another thread, process or task."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

ATTEMPTS = 20
"""The fewest: a machine that stands still for a while takes all the time, and not one of these."""
PAUSE_S = 0.02


def eventually(condition: Callable[[], T], what: str | Callable[[], str], timeout_s: float = 30) -> T:
    """Wait until a condition holds; what it returns then.

    Args:
        condition: holds when what it returns is true. What it raises goes through.
        what: is waited for, to be said if it does not come.
        timeout_s: after which, and after ATTEMPTS, no more is waited.

    Raises:
        AssertionError: it does not come.
    """
    for _ in _attempts(timeout_s):
        if found := condition():
            return found
        time.sleep(PAUSE_S)
    raise _not_in(timeout_s, what)


async def eventually_async(
    condition: Callable[[], Awaitable[T]] | Callable[[], T], what: str | Callable[[], str], timeout_s: float = 30
) -> T:
    """The same while an event loop goes on; the condition may be a coroutine."""
    for _ in _attempts(timeout_s):
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        await asyncio.sleep(PAUSE_S)
    raise _not_in(timeout_s, what)


def _attempts(timeout_s: float) -> Iterator[int]:
    deadline, attempt = time.monotonic() + timeout_s, 0
    while attempt < ATTEMPTS or time.monotonic() < deadline:
        yield attempt
        attempt += 1


def _not_in(timeout_s: float, what: str | Callable[[], str]) -> AssertionError:
    return AssertionError(f"waited for {timeout_s:g} s, and there was no {what if isinstance(what, str) else what()}")
