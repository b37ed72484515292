import asyncio

import pytest

from gateway.turns import Turns


def run(*keys: str, size: int = 1) -> tuple[list[str], int]:
    """In which order those that wait get their turns, and how many had one at a time."""
    order: list[str] = []
    most = now = 0

    async def one(turns: Turns, key: str) -> None:
        nonlocal most, now
        async with turns.take(key):
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            order.append(key)
            now -= 1

    async def use() -> None:
        turns = Turns(size)
        await asyncio.gather(*(one(turns, key) for key in keys))

    asyncio.run(use())
    return order, most


def test_keys_take_turns_however_many_each_has_waiting() -> None:
    order, _ = run("greedy", "greedy", "greedy", "greedy", "modest", "modest")
    assert order == ["greedy", "greedy", "modest", "greedy", "modest", "greedy"]


@pytest.mark.parametrize("size", [1, 3])
def test_no_more_than_so_many_at_a_time(size: int) -> None:
    order, most = run(*"abcabcabc", size=size)
    assert (len(order), most) == (9, size)


def test_turn_that_was_given_up_goes_to_the_next() -> None:
    async def use() -> None:
        turns = Turns(1)
        async with turns.take("a"):
            given_up, waiting = (asyncio.create_task(turns.take(key).__aenter__()) for key in "ab")
            await asyncio.sleep(0)
            given_up.cancel()
            await asyncio.gather(given_up, return_exceptions=True)
        await asyncio.wait_for(waiting, 1)

    asyncio.run(use())


def test_turn_that_comes_to_one_who_gives_up_is_given_back() -> None:
    async def use() -> None:
        turns = Turns(1)
        async with turns.take("a"):
            waiting = asyncio.create_task(turns.take("b").__aenter__())
            await asyncio.sleep(0)
        waiting.cancel()  # in the moment in which it comes
        await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(1), turns.take("c"):
            pass

    asyncio.run(use())
