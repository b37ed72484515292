import asyncio
import threading
from threading import Event

import pytest

from gateway.text.hanging import NotDone, Work


def test_result_and_error_are_those_of_the_function() -> None:
    async def run() -> None:
        assert await Work(lambda: 1, wait_s=60).result() == 1
        failing = Work(lambda: 1 // 0, wait_s=60)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await failing.result()

    asyncio.run(run())


def test_hanging_work_blocks_neither_its_caller_nor_the_loop() -> None:
    go_on = Event()

    async def run() -> None:
        hanging = Work(lambda: go_on.wait(60), wait_s=0.01)
        for _ in range(2):
            with pytest.raises(NotDone):
                await hanging.result()

    before = set(threading.enumerate())
    asyncio.run(run())
    (thread,) = set(threading.enumerate()) - before
    go_on.set()  # it ends after its loop has
    thread.join(60)
    assert not thread.is_alive()


def test_work_that_finishes_late_has_a_result() -> None:
    go_on = Event()

    async def run() -> None:
        late = Work(lambda: go_on.wait(60), wait_s=0)
        with pytest.raises(NotDone):
            await late.result()
        go_on.set()
        while True:
            try:
                assert await late.result() is True
                break
            except NotDone:
                await asyncio.sleep(0.01)

    asyncio.run(run())
