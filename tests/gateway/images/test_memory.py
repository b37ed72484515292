import asyncio

import pytest

from gateway.images.memory import Budget


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def take(budget: Budget, amount: int, order: list[int]) -> None:
    async with budget.hold(amount):
        order.append(amount)


def test_holders_share_what_there_is() -> None:
    async def run() -> None:
        budget = Budget(10)
        order: list[int] = []
        async with budget.hold(4), budget.hold(6):
            waiting = asyncio.create_task(take(budget, 1, order))
            await settle()
            assert order == []
        await waiting
        assert order == [1]

    asyncio.run(run())


def test_failure_gives_back_too() -> None:
    async def run() -> None:
        budget = Budget(1)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                async with budget.hold(1):
                    raise ZeroDivisionError
        async with budget.hold(1):
            pass

    asyncio.run(run())


def test_whoever_gives_up_waiting_takes_nothing() -> None:
    async def run() -> None:
        budget = Budget(10)
        order: list[int] = []
        async with budget.hold(10):
            waiting = asyncio.create_task(take(budget, 10, order))
            await settle()
            waiting.cancel()
            await settle()
        await asyncio.wait_for(take(budget, 10, order), 5)
        assert order == [10]

    asyncio.run(run())


def test_large_request_is_not_passed_by_small_ones_for_ever() -> None:
    async def run() -> None:
        budget = Budget(10)
        order: list[int] = []
        async with budget.hold(5):
            tasks = [asyncio.create_task(take(budget, amount, order)) for amount in (10, 1, 2, 3)]
            await settle()
            assert order == []
        await asyncio.gather(*tasks)
        assert order == [10, 1, 2, 3]

    asyncio.run(run())
