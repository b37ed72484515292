"""Many things at a time, and their results in order."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

Result = TypeVar("Result")


async def gather(*awaitables: Awaitable[Result]) -> list[Result]:
    """All results in order, or the exception of the first that failed, in their order and not in time.

    Those behind one that failed are cancelled; those in front of it are waited for, so that the same call always fails
    with the same error.
    """
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    wanted = len(tasks)

    def look(index: int, task: asyncio.Future[Result]) -> None:
        nonlocal wanted
        if index < wanted and (task.cancelled() or task.exception() is not None):
            behind, wanted = tasks[index + 1 : wanted], index
            for later in behind:
                later.cancel()

    for index, task in enumerate(tasks):
        task.add_done_callback(partial(look, index))
    results: list[Result] = []
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
        results.append(outcome)
    return results


async def ahead(calls: Sequence[Callable[[], Awaitable[Result]]], most: int) -> AsyncGenerator[Result, None]:
    """Each result in order, while the next ones are made: so many at a time. At the end, those are cancelled."""
    if len(calls) == 1:
        yield await calls[0]()
        return
    in_flight: deque[asyncio.Future[Result]] = deque()
    try:
        for call in calls:
            in_flight.append(asyncio.ensure_future(call()))
            if len(in_flight) == most:
                yield await in_flight.popleft()
        while in_flight:
            yield await in_flight.popleft()
    finally:
        for task in in_flight:
            task.cancel()
