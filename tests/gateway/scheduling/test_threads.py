import asyncio
import gc
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from gateway.scheduling.threads import Threads
from gateway.scheduling.turns import Account

SPARE = 2


def using(work: Callable[[Threads], Awaitable[None]]) -> None:
    async def run() -> None:
        threads = Threads(2, SPARE)
        try:
            await asyncio.wait_for(work(threads), 10)
        finally:
            threads.close()

    asyncio.run(run())


def compute(seconds: float = 0.05) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_account_is_charged_for_cpu_time_and_not_for_waiting() -> None:
    async def work(threads: Threads) -> None:
        account = Account()
        await threads.run(account, lambda: time.sleep(0.1))
        assert account.seconds < 0.05
        await threads.run(account, compute)
        assert account.seconds >= 0.05

    using(work)


def test_failed_work_raises_and_is_charged() -> None:
    def fail() -> None:
        compute()
        raise KeyError("a")

    async def work(threads: Threads) -> None:
        account = Account()
        with pytest.raises(KeyError):
            await threads.run(account, fail)
        assert account.seconds >= 0.05

    using(work)


def test_another_key_gets_a_spare_thread() -> None:
    async def work(threads: Threads) -> None:
        go_on = threading.Event()
        held = [asyncio.create_task(threads.run(Account("a"), go_on.wait)) for _ in range(threads.count + SPARE)]
        assert await threads.run(Account("b"), lambda: 5) == 5
        go_on.set()
        assert all(await asyncio.gather(*held))

    using(work)


def test_cancelled_caller_holds_the_turn_until_the_work_is_done() -> None:
    async def work(threads: Threads) -> None:
        go_on, begun = threading.Event(), threading.Semaphore(0)

        def hold() -> None:
            begun.release()
            go_on.wait()

        account = Account("a")
        for _ in range(threads.count):
            task = asyncio.create_task(threads.run(account, hold))
            await asyncio.to_thread(begun.acquire)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        later = asyncio.create_task(threads.run(account, lambda: 5))
        await threads.run(Account("b"), lambda: None)
        assert not later.done()
        go_on.set()
        assert await later == 5

    using(work)


def test_error_of_cancelled_work_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def work(threads: Threads) -> None:
        go_on = threading.Event()

        def fail() -> None:
            go_on.wait()
            raise ValueError("words of a client")

        task = asyncio.create_task(threads.run(Account("a"), fail))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        await asyncio.sleep(0.05)
        gc.collect()

    using(work)
    assert not caplog.records
