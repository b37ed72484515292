import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.scheduling.turns import Turns


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(*asked: tuple[str, float], size: int = 1, spare: int = 0) -> tuple[str, int]:
    """In which order those that all ask at once get their turns, each for some seconds, and how many have one at a
    time."""
    clock = Clock()
    order: list[str] = []
    most = now = 0

    async def one(turns: Turns, key: str, seconds: float) -> None:
        nonlocal most, now
        async with turns.take(key):
            order.append(key)
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            clock.now += seconds
            now -= 1

    async def use() -> None:
        turns = Turns(size, spare, clock)
        await asyncio.gather(*(one(turns, key, seconds) for key, seconds in asked))

    asyncio.run(use())
    return "".join(order), most


def test_keys_alternate_however_much_they_have_waiting() -> None:
    order, _ = run(*[("g", 1)] * 4, *[("m", 1)] * 2)
    assert order == "gmgmgg"


def test_key_with_long_turns_gets_fewer() -> None:
    order, _ = run(*[("s", 5)] * 3, *[("q", 1)] * 7)
    assert order == "sqqqqqsqqs"


@pytest.mark.parametrize("size", [1, 3])
def test_size_is_the_limit(size: int) -> None:
    order, most = run(*((key, 1) for key in "abcabcabc"), size=size)
    assert (len(order), most) == (9, size)


def test_spare_turns_go_to_keys_without_a_turn() -> None:
    _, most = run(*[("a", 1)] * 9, size=2, spare=2)
    assert most == 2
    order, most = run(*[("a", 9)] * 4, ("b", 1), ("b", 1), ("c", 1), ("d", 1), size=2, spare=2)
    assert order[:4] == "aabc"
    assert most == 4


def using(work: Callable[[Turns, Clock], Awaitable[None]], size: int = 1) -> None:
    async def use() -> None:
        clock = Clock()
        await work(Turns(size, clock=clock), clock)

    asyncio.run(use())


async def asking(turns: Turns, key: str) -> asyncio.Task[None]:
    task = asyncio.create_task(turns.begin(key))
    await asyncio.sleep(0)
    return task


def test_running_turns_count() -> None:
    async def work(turns: Turns, clock: Clock) -> None:
        for key in ("slow", "slow", "quick"):
            await turns.begin(key)
        waiting = [await asking(turns, key) for key in ("slow", "quick")]
        clock.now = 1
        turns.end("quick")
        await asyncio.sleep(0)
        assert [task.done() for task in waiting] == [False, True]

    using(work, size=3)


def test_returning_key_has_no_credit() -> None:
    async def work(turns: Turns, clock: Clock) -> None:
        await turns.begin("here")
        clock.now = 100
        waiting = [await asking(turns, key) for key in ("away", "away", "here")]
        clock.now = 101
        turns.end("here")
        await asyncio.sleep(0)
        assert [task.done() for task in waiting] == [True, False, False]
        clock.now = 103
        turns.end("away")
        await asyncio.sleep(0)
        assert [task.done() for task in waiting] == [True, False, True]

    using(work)


def test_briefly_idle_key_keeps_its_usage() -> None:
    async def work(turns: Turns, clock: Clock) -> None:
        for key in ("slow", "slow", "other"):
            await turns.begin(key)
        clock.now = 100
        for _ in range(2):
            turns.end("slow")
            await turns.begin("other")
        waiting = [await asking(turns, key) for key in ("slow", "third")]
        turns.end("other")
        await asyncio.sleep(0)
        assert [task.done() for task in waiting] == [False, True]

    using(work, size=3)


def test_cancelled_turn_goes_to_the_next() -> None:
    async def work(turns: Turns, _: Clock) -> None:
        await turns.begin("a")
        given_up, waiting = [await asking(turns, key) for key in "ab"]
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        turns.end("a")
        await asyncio.wait_for(waiting, 1)

    using(work)


def test_turn_granted_to_a_cancelled_waiter_is_released() -> None:
    async def work(turns: Turns, _: Clock) -> None:
        await turns.begin("a")
        waiting = await asking(turns, "b")
        turns.end("a")
        waiting.cancel()  # in the moment in which it comes
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.wait_for(turns.begin("c"), 1)

    using(work)


def test_turn_is_not_lost_if_the_next_waiter_is_cancelled() -> None:
    async def work(turns: Turns, _: Clock) -> None:
        await turns.begin("a")
        waiting = await asking(turns, "b")
        waiting.cancel()
        turns.end("a")  # before the one who gives up knows of it
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.wait_for(turns.begin("c"), 1)

    using(work)
