import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from gateway.service.gather import gather, prefetch


def test_results_are_in_order() -> None:
    async def one(i: int) -> int:
        await asyncio.sleep(0.01 * (3 - i))
        return i

    assert asyncio.run(gather(*map(one, range(4)))) == [0, 1, 2, 3]


def test_failure_cancels_later_awaitables_only() -> None:
    ended: list[int] = []

    async def one(i: int) -> int:
        try:
            await asyncio.sleep({0: 0.05, 1: 0.1, 2: 0.01}.get(i, 10))
        except asyncio.CancelledError:
            ended.append(i)
            raise
        if i in (1, 2):
            raise ValueError(f"of {i}")
        return i

    with pytest.raises(ValueError, match="of 1"):
        asyncio.run(gather(*map(one, range(6))))
    assert ended == [3, 4, 5]


def test_cancelling_cancels_all() -> None:
    ended: list[int] = []

    async def one(i: int) -> None:
        try:
            await asyncio.sleep(10)
        finally:
            ended.append(i)

    async def run() -> None:
        await asyncio.wait_for(gather(*map(one, range(3))), 0.01)

    with pytest.raises(TimeoutError):
        asyncio.run(run())
    assert ended == [0, 1, 2]


class Counted:
    """Counts its calls in flight."""

    def __init__(self) -> None:
        self.begun = self.now = self.most = 0

    async def call(self, i: int) -> int:
        self.begun += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0.001 * (i % 3))
        finally:
            self.now -= 1
        return i

    def calls(self, count: int) -> list[Callable[[], Awaitable[int]]]:
        return [partial(self.call, i) for i in range(count)]


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_calls_up_to_the_limit_run_ahead(count: int) -> None:
    counted = Counted()

    async def run() -> list[int]:
        return [result async for result in prefetch(counted.calls(count), 3)]

    assert asyncio.run(run()) == list(range(count))
    assert counted.most == min(count, 3)


def test_closing_cancels_the_calls_ahead() -> None:
    counted = Counted()

    async def run() -> None:
        results = prefetch(counted.calls(9), 3)
        async for _ in results:
            break
        await results.aclose()
        await asyncio.sleep(0.01)

    asyncio.run(run())
    assert counted.begun <= 4
    assert counted.now == 0
