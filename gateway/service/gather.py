"""Runs awaitables concurrently and returns their results in order."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

Result = TypeVar("Result")


async def gather(*awaitables: Awaitable[Result]) -> list[Result]:
    """Return all results in order, or raise the exception of the first awaitable, by position, that failed.

    Awaitables after a failed one are cancelled. Those before it are awaited, so that the same call always fails with
    the same error.
    """
    if len(awaitables) == 1:
        return [await awaitables[0]]
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    wanted = len(tasks)

    def check(index: int, task: asyncio.Future[Result]) -> None:
        nonlocal wanted
        if index < wanted and (task.cancelled() or task.exception() is not None):
            behind, wanted = tasks[index + 1 : wanted], index
            for later in behind:
                later.cancel()

    for index, task in enumerate(tasks):
        task.add_done_callback(partial(check, index))
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    tasks.clear()
    results = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if errors:
        try:
            raise errors[0]
        finally:  # or the error refers to itself, and all that was computed stays until the next garbage collection
            outcomes.clear()
            errors.clear()
    return results


async def prefetch(calls: Sequence[Callable[[], Awaitable[Result]]], limit: int) -> AsyncGenerator[Result, None]:
    """Yield each result in order while up to `limit` calls run. Closing the generator cancels those still running."""
    if len(calls) == 1:
        yield await calls[0]()
        return
    running: deque[asyncio.Future[Result]] = deque()
    try:
        for call in calls:
            running.append(asyncio.ensure_future(call()))
            if len(running) == limit:
                yield await running.popleft()
        while running:
            yield await running.popleft()
    finally:
        for task in running:
            task.cancel()
