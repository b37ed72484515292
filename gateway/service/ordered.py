"""Waiting for many things of which some may fail."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

Result = TypeVar("Result")


async def gather(*awaitables: Awaitable[Result]) -> list[Result]:
    """All results in order, or the exception of the first that failed, in their order and not in time.

    All are waited for, so that the same call always fails with the same error.
    """
    results: list[Result] = []
    for outcome in await asyncio.gather(*awaitables, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
        results.append(outcome)
    return results
