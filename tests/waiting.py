"""Waiting for what happens by itself, in another thread, process or task."""

import asyncio
import inspect
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

ATTEMPTS = 20
"""The fewest: a machine that stands still for a while takes all the time, and not one of these."""
PAUSE_S = 0.02
TIMEOUT_S = 120
"""So long that only what hangs takes it, on a busy machine as well."""


def eventually(
    condition: Callable[[], T | None], what: str | Callable[[], str] = "", timeout_s: float = TIMEOUT_S
) -> T:
    """Wait until a condition holds; what it returns then.

    Args:
        condition: holds when what it returns is true. What it raises goes through.
        what: is waited for, to be said if it does not come; by default the condition's source.
        timeout_s: after which, and after ATTEMPTS, no more is waited.

    Raises:
        AssertionError: it does not come.
    """
    for _ in _attempts(timeout_s):
        if found := condition():
            return found
        time.sleep(PAUSE_S)
    raise _not_in(timeout_s, what, condition)


async def eventually_async(
    condition: Callable[[], T | None], what: str | Callable[[], str] = "", timeout_s: float = TIMEOUT_S
) -> T:
    """The same while an event loop goes on."""
    for _ in _attempts(timeout_s):
        if found := condition():
            return found
        await asyncio.sleep(PAUSE_S)
    raise _not_in(timeout_s, what, condition)


def _attempts(timeout_s: float) -> Iterator[int]:
    deadline, attempt = time.monotonic() + timeout_s, 0
    while attempt < ATTEMPTS or time.monotonic() < deadline:
        yield attempt
        attempt += 1


def _not_in(timeout_s: float, what: str | Callable[[], str], condition: Callable[[], object]) -> AssertionError:
    told = what if isinstance(what, str) else what()
    return AssertionError(f"not within {timeout_s:g} s: {told or inspect.getsource(condition).strip()}")
