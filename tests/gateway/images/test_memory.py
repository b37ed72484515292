import asyncio

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.errors import Overloaded
from gateway.images.memory import InFlight, MemoryLimit


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def take(limit: MemoryLimit, amount: int, order: list[int]) -> None:
    async with limit.reserve(amount):
        order.append(amount)


def test_waiters_share_the_limit() -> None:
    async def run() -> None:
        limit = MemoryLimit(10)
        order: list[int] = []
        async with limit.reserve(4), limit.reserve(6):
            waiting = asyncio.create_task(take(limit, 1, order))
            await settle()
            assert order == []
        await waiting
        assert order == [1]

    asyncio.run(run())


def test_failure_releases_the_reservation() -> None:
    async def run() -> None:
        limit = MemoryLimit(1)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                async with limit.reserve(1):
                    raise ZeroDivisionError
        async with limit.reserve(1):
            pass

    asyncio.run(run())


def test_whoever_gives_up_waiting_takes_nothing() -> None:
    async def run() -> None:
        limit = MemoryLimit(10)
        order: list[int] = []
        async with limit.reserve(10):
            waiting = asyncio.create_task(take(limit, 10, order))
            await settle()
            waiting.cancel()
            await settle()
        await asyncio.wait_for(take(limit, 10, order), 5)
        assert order == [10]

    asyncio.run(run())


def test_large_request_is_not_passed_by_small_ones_for_ever() -> None:
    async def run() -> None:
        limit = MemoryLimit(10)
        order: list[int] = []
        async with limit.reserve(5):
            tasks = [asyncio.create_task(take(limit, amount, order)) for amount in (10, 1, 2, 3)]
            await settle()
            assert order == []
        await asyncio.gather(*tasks)
        assert order == [10, 1, 2, 3]

    asyncio.run(run())


def test_arrays_count_until_their_last_view_is_gone() -> None:
    async def work() -> None:
        flight = InFlight("images", 1000)
        arrays = [np.zeros(600, np.uint8)]
        flight.count(arrays[0], "")
        with pytest.raises(Overloaded, match="the images in flight reached the memory limit"):
            flight.count(np.zeros(500, np.uint8), "")
        arrays.append(arrays[0].reshape(2, -1)[1:])
        arrays.pop(0)
        await asyncio.sleep(0)
        assert flight.size == 600
        await asyncio.to_thread(arrays.clear)
        await asyncio.sleep(0)
        assert flight.size == 0

    asyncio.run(work())


def test_array_may_outlive_the_event_loop() -> None:
    async def work() -> NDArray[np.uint8]:
        array = np.zeros(600, np.uint8)
        InFlight("images", 1000).count(array, "")
        return array

    assert asyncio.run(work()).nbytes == 600  # and ends here, without an error
