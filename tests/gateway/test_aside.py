import asyncio
import threading

from gateway.aside import LITTLE, MUCH, Aside


def test_little_is_done_at_once_and_much_in_threads_of_its_own() -> None:
    async def use() -> list[str]:
        aside = Aside()
        try:
            return [
                await aside.run(size, lambda: threading.current_thread().name)
                for size in (LITTLE, LITTLE + 1, MUCH + 1)
            ]
        finally:
            aside.close()

    at_once, brief, long = asyncio.run(use())
    assert at_once == threading.current_thread().name
    assert len({at_once, brief, long}) == 3


def test_much_does_not_keep_less_waiting() -> None:
    async def use() -> str:
        aside, release = Aside(), threading.Event()
        long = asyncio.create_task(aside.run(MUCH + 1, release.wait, 30))
        try:
            return await aside.run(MUCH, lambda: "done")
        finally:
            release.set()
            await long
            aside.close()

    assert asyncio.run(use()) == "done"
