"""Batches whose requests are answered by a function, as fast or as badly as a test says."""

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from msgspec import structs

from gateway.drain import Drain
from gateway.errors import InvalidRequest, NoSuchObject, RequestTooLarge
from gateway.jobs.runner import MAX_ATTEMPTS, Answer, Execute, Pauses, Runner
from gateway.jobs.store import FINISHED, MAX_UNFINISHED, Batch, Limits, Owner, Progress, Store, StoredFile, new_id
from tests.waiting import eventually_async

KEY = "a" * 64
PLENTY = 2**30
MAX_LINE = 10_000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "batches", Limits(PLENTY, PLENTY, PLENTY))


def add(store: Store, count: int, key: str = KEY, lasts_s: float = 3600, lines: str | None = None) -> Batch:
    """Add a batch with so many requests."""
    owner = store.owner(key)
    owner.prepare()
    now = int(time.time())
    file_id = new_id("file-")
    requests = (
        json.dumps({"custom_id": f"c{number}", "method": "POST", "url": "/embed", "body": {"number": number}})
        for number in range(count)
    )
    owner.content(file_id).write_text("\n".join(requests) if lines is None else lines)
    owner.add_file(StoredFile(file_id, "name", "batch", owner.content(file_id).stat().st_size, now, now + 3600))
    batch = Batch(
        new_id("batch_"),
        "/embed",
        file_id,
        "1h",
        now,
        int(time.time() + lasts_s),
        new_id("file-"),
        new_id("file-"),
        3600,
    )
    owner.add_batch(batch)
    return batch


def output(owner: Owner, file_id: str) -> dict[str, dict[str, object]]:
    """The lines of a file of results, each of which has another custom_id."""
    owner.file(file_id)
    lines = [json.loads(line) for line in owner.content(file_id).read_text().splitlines()]
    found = {line["custom_id"]: line for line in lines}
    assert len(found) == len(lines)
    return found


class Server:
    """Answers requests, and counts them."""

    def __init__(self, answer: Callable[[int], Awaitable[int]] | None = None) -> None:
        self.asked: Counter[int] = Counter()
        self.keys: set[str] = set()
        self.drain = Drain()
        self.is_ready = True
        self.looked = 0
        """How often someone asked whether it is ready."""
        self.delay_s = 0.0
        self._answer = answer

    async def execute(self, key: str, endpoint: str, body: bytes) -> Answer:
        number = json.loads(body)["number"]
        self.asked[number] += 1
        self.keys.add(key)
        assert endpoint == "/embed"
        status = await self._answer(number) if self._answer is not None else 200
        return Answer(status, "id", json.dumps({"answer": number}).encode(), is_json=True)

    def _looks_ready(self) -> bool:
        self.looked += 1
        return self.is_ready

    def runner(self, store: Store, execute: Execute | None = None) -> Runner:
        return Runner(
            store,
            execute or self.execute,
            self.drain,
            self._looks_ready,
            lambda _: self.delay_s,
            MAX_LINE,
            Pauses(first=0.001, disk=0.01),
        )


async def until_finished(server: Server, store: Store, *batches: Batch, key: str = KEY) -> list[Progress]:
    """Run batches to their end."""
    running = asyncio.create_task(server.runner(store).run())
    owner = store.owner(key)
    try:
        await eventually_async(lambda: all(owner.progress(one.id).status in FINISHED for one in batches))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return [owner.progress(one.id) for one in batches]


def test_every_request_is_answered_once(store: Store) -> None:
    batch = add(store, 300)
    server = Server()
    (progress,) = asyncio.run(until_finished(server, store, batch))
    assert (progress.status, progress.total, progress.completed, progress.failed) == ("completed", 300, 300, 0)
    owner = store.owner(KEY)
    found = output(owner, batch.output_file_id)
    assert found.keys() == {f"c{number}" for number in range(300)}
    assert all(one["response"]["body"] == {"answer": int(name[1:])} for name, one in found.items())  # type: ignore[index]
    assert set(server.asked.values()) == {1}
    assert server.keys == {KEY}
    with pytest.raises(NoSuchObject):
        owner.file(batch.error_file_id)
    assert not owner.content(batch.error_file_id).exists()


def test_batches_of_a_key_run_one_after_the_other_and_those_of_others_beside_them(store: Store) -> None:
    batches = [add(store, 3, key) for key in ("a" * 64, "a" * 64, "b" * 64)]
    seen: list[int] = []

    async def answer(_: int) -> int:
        seen.append(sum(any(store.owner(key).unfinished()) for key in ("a" * 64, "b" * 64)))
        await asyncio.sleep(0)
        return 200

    async def use() -> None:
        server = Server(answer)
        running = asyncio.create_task(server.runner(store).run())
        for batch, key in zip(batches, ("a" * 64, "a" * 64, "b" * 64), strict=True):
            owner = store.owner(key)
            await eventually_async(lambda o=owner, b=batch: o.progress(b.id).status == "completed")  # type: ignore[misc]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(use())
    first, second, _ = (
        store.owner(key).progress(batch.id) for batch, key in zip(batches, ("a" * 64, "a" * 64, "b" * 64), strict=True)
    )
    assert first.finished_at is not None
    assert second.in_progress_at is not None
    assert second.in_progress_at >= first.finished_at
    assert 2 in seen


def test_only_one_runner_takes_a_batch(store: Store) -> None:
    batch = add(store, 200)

    async def answer(_: int) -> int:
        await asyncio.sleep(0.001)
        return 200

    async def use() -> None:
        others = [Server(answer) for _ in range(3)]
        tasks = [asyncio.create_task(other.runner(store).run()) for other in others]
        await eventually_async(lambda: store.owner(KEY).progress(batch.id).status == "completed")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert sorted(other.asked.total() for other in others) == [0, 0, 200]

    asyncio.run(use())


def test_stopped_batch_goes_on(store: Store) -> None:
    batch = add(store, 200)
    owner = store.owner(KEY)

    async def use() -> Counter[int]:
        async def answer(_: int) -> int:
            if first.asked.total() == 100:
                first.drain.begin()
            await asyncio.sleep(0)
            return 200

        first = Server(answer)
        running = asyncio.create_task(first.runner(store).run())
        await eventually_async(lambda: first.drain.began_at is not None and not first.drain.in_flight)
        await eventually_async(lambda: not any(lock is None for lock in [_try_lock(owner)]))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        told = owner.progress(batch.id)
        assert told.status == "in_progress"
        assert 0 < told.completed == first.asked.total() < 200
        second = Server()
        await until_finished(second, store, batch)
        return first.asked + second.asked

    asked = asyncio.run(use())
    assert set(asked.values()) == {1}
    assert len(output(owner, batch.output_file_id)) == 200


def _try_lock(owner: Owner) -> bool | None:
    lock = owner.lock()
    if lock is None:
        return None
    os.close(lock)
    return True


def test_cancelled_runner_keeps_what_was_written(store: Store) -> None:
    batch = add(store, 200)
    owner = store.owner(KEY)

    async def use() -> None:
        async def answer(number: int) -> int:
            if number >= 100:
                await asyncio.sleep(1000)
            return 200

        first = Server(answer)
        running = asyncio.create_task(first.runner(store).run())
        await eventually_async(lambda: owner.progress(batch.id).completed == 100)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        second = Server()
        await until_finished(second, store, batch)
        assert sorted(second.asked) == [*range(100, 200)]

    asyncio.run(use())
    assert len(output(owner, batch.output_file_id)) == 200


def test_requests_are_repeated_until_they_succeed(store: Store) -> None:
    batch = add(store, 20)
    server = Server()

    async def answer(number: int) -> int:
        return (429, 503, 502, 504, 200)[min(4, server.asked[number] - 1)]

    server._answer = answer
    (progress,) = asyncio.run(until_finished(server, store, batch))
    assert (progress.completed, progress.failed) == (20, 0)
    assert set(server.asked.values()) == {5}


def test_request_that_always_fails_ends_in_the_error_file(store: Store) -> None:
    batch = add(store, 3)

    async def answer(number: int) -> int:
        return (200, 502, 400)[number]

    server = Server(answer)
    (progress,) = asyncio.run(until_finished(server, store, batch))
    assert (progress.status, progress.completed, progress.failed) == ("completed", 1, 2)
    assert server.asked == {0: 1, 1: MAX_ATTEMPTS, 2: 1}
    errors = output(store.owner(KEY), batch.error_file_id)
    assert {name: one["response"]["status_code"] for name, one in errors.items()} == {"c1": 502, "c2": 400}  # type: ignore[index]


def test_expired_batch_has_an_error_for_each_request_that_is_missing(store: Store) -> None:
    batch = add(store, 50, lasts_s=2)

    async def answer(number: int) -> int:
        return 200 if number < 10 else 503

    (progress,) = asyncio.run(until_finished(Server(answer), store, batch))
    assert (progress.status, progress.completed, progress.failed) == ("expired", 10, 40)
    owner = store.owner(KEY)
    assert output(owner, batch.output_file_id).keys() == {f"c{number}" for number in range(10)}
    errors = output(owner, batch.error_file_id)
    assert errors.keys() == {f"c{number}" for number in range(10, 50)}
    assert all(one["error"]["code"] == "batch_expired" for one in errors.values())  # type: ignore[index]


def test_cancelled_batch_keeps_its_results(store: Store) -> None:
    batch = add(store, 50)
    owner = store.owner(KEY)

    async def answer(number: int) -> int:
        if number == 9:
            await asyncio.to_thread(owner.cancel, batch.id)
        return 200 if number < 10 else 503

    (progress,) = asyncio.run(until_finished(Server(answer), store, batch))
    assert (progress.status, progress.completed, progress.failed) == ("cancelled", 10, 0)
    assert len(output(owner, batch.output_file_id)) == 10


def test_batches_end_when_it_is_due_though_another_runs(store: Store) -> None:
    running, cancelled, expired = add(store, 1), add(store, 3), add(store, 2, lasts_s=0)
    owner = store.owner(KEY)
    owner.cancel(cancelled.id)
    others = (cancelled, expired)

    async def answer(_: int) -> int:
        await eventually_async(lambda: all(owner.progress(one.id).status in FINISHED for one in others))
        return 200

    server = Server(answer)
    found = asyncio.run(until_finished(server, store, running, *others))
    assert [progress.status for progress in found] == ["completed", "cancelled", "expired"]
    assert server.asked == {0: 1}
    assert output(owner, expired.error_file_id).keys() == {"c0", "c1"}


def test_input_does_not_expire_before_its_batch(store: Store) -> None:
    batch = add(store, 3)
    owner = store.owner(KEY)
    file = owner.file(batch.input_file_id)
    owner.add_file(structs.replace(file, expires_at=int(time.time()) - 1))
    owner.clean()
    (progress,) = asyncio.run(until_finished(Server(), store, batch))
    assert (progress.status, progress.completed) == ("completed", 3)
    owner.clean()
    assert not owner.content(batch.input_file_id).exists()


def test_batch_waits_for_room_and_says_so(store: Store) -> None:
    batch = add(store, 50)
    owner = store.owner(KEY)
    other = owner.content(new_id("file-"))
    other.write_bytes(b"x" * 5000)
    full = Store(store.folder, Limits(PLENTY, owner.size(), PLENTY))

    async def use() -> None:
        server = Server()
        running = asyncio.create_task(server.runner(full).run())
        await eventually_async(lambda: [one.code for one in owner.progress(batch.id).problems] == ["disk_full"])
        assert owner.progress(batch.id).status == "in_progress"
        other.unlink()
        await eventually_async(lambda: owner.progress(batch.id).status == "completed")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert set(server.asked.values()) == {1}

    asyncio.run(use())
    assert owner.progress(batch.id).problems == []
    assert len(output(owner, batch.output_file_id)) == 50


def test_nothing_is_sent_while_the_server_is_not_ready_or_the_quota_is_used_up(store: Store) -> None:
    batch = add(store, 5)

    async def use() -> None:
        server = Server()
        server.is_ready, server.delay_s = False, 10.0
        running = asyncio.create_task(server.runner(store).run())
        await eventually_async(lambda: server.looked > 2)
        server.is_ready = True
        await eventually_async(lambda: server.looked > 5)
        assert not server.asked
        server.delay_s = 0.0
        await eventually_async(lambda: store.owner(KEY).progress(batch.id).status == "completed")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(use())


def test_batch_without_its_input_fails(store: Store) -> None:
    batch = add(store, 5)
    owner = store.owner(KEY)
    for path in (store.folder / KEY / "files").iterdir():
        path.unlink()
    (progress,) = asyncio.run(until_finished(Server(), store, batch))
    assert [problem.code for problem in progress.problems] == ["input_file_not_found"]
    assert progress.status == "failed"
    assert [*owner.unfinished()] == []


def test_answer_that_is_not_json_is_an_error(store: Store) -> None:
    batch = add(store, 1)
    server = Server()

    async def execute(*_: object) -> Answer:
        return Answer(200, "id", b"\x00\n", is_json=False)

    async def use() -> None:
        running = asyncio.create_task(server.runner(store, execute).run())
        await eventually_async(lambda: store.owner(KEY).progress(batch.id).status == "completed")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(use())
    assert output(store.owner(KEY), batch.error_file_id)["c0"]["error"]["code"] == "not_json"  # type: ignore[index]


def test_input_of_an_unfinished_batch_cannot_be_deleted(store: Store) -> None:
    batch = add(store, 1)
    owner = store.owner(KEY)
    with pytest.raises(InvalidRequest, match="cancel it first"):
        owner.delete_file(batch.input_file_id)
    asyncio.run(until_finished(Server(), store, batch))
    owner.delete_file(batch.input_file_id)
    with pytest.raises(NoSuchObject):
        owner.file(batch.input_file_id)


def test_unfinished_batches_are_limited(store: Store) -> None:
    for _ in range(MAX_UNFINISHED):
        add(store, 1)
    with pytest.raises(RequestTooLarge, match=f"{MAX_UNFINISHED} unfinished batches"):
        add(store, 1)


def test_cleaning_removes_what_is_old_and_nothing_else(store: Store) -> None:
    kept = add(store, 1)
    owner = store.owner(KEY)
    asyncio.run(until_finished(Server(), store, kept))
    now = int(time.time())
    expired, cut_off, coming = (owner.content(new_id("file-")) for _ in range(3))
    for path in (expired, cut_off, coming):
        path.write_text("x")
    owner.add_file(StoredFile(expired.stem, "name", "batch", 1, now - 10, now - 1))
    os.utime(cut_off, (0, 0))
    with pytest.raises(NoSuchObject):
        owner.file(expired.stem)
    owner.clean()
    assert [path.exists() for path in (expired, cut_off, coming)] == [False, False, True]
    assert [batch.id for batch in owner.batches()] == [kept.id]
    assert len(output(owner, kept.output_file_id)) == 1
