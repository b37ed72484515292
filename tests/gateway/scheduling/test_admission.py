"""Queues without Triton: a batch ends when the test says so, or after the time that its tokens take."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import nullcontext

import pytest

from gateway.board import Board
from gateway.errors import Overloaded
from gateway.scheduling.admission import (
    BACKGROUND_S,
    BACKGROUND_TOKENS,
    BATCH_S,
    MIN_IN_FLIGHT_TOKENS,
    QUIET_BACKGROUND_S,
    SMALL_TOKENS,
    Admission,
    Queue,
    Queues,
    max_in_flight,
)
from gateway.scheduling.rate import Rate
from tests.waiting import eventually_async

RATE = 1_000_000.0
"""Tokens per second of the simulated model."""


def known(rate: float = 10_000.0) -> Queue:
    """A queue with a known rate, low enough for MIN_IN_FLIGHT_TOKENS to apply."""
    queue = Queue(timeout_s=1000)
    queue.rate = Rate(rate, is_known=True)
    return queue


class Model:
    """Computes one batch at a time and records the order; the batches of a request wait concurrently."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.order: list[str] = []
        self._turn = asyncio.Lock()

    async def request(self, key: str, batches: int, tokens: int, name: str = "") -> None:
        with self.queue.admit(key, batches * tokens) as admission:
            await asyncio.gather(*(self._batch(admission, tokens, name or key) for _ in range(batches)))

    async def _batch(self, admission: Admission, tokens: int, name: str) -> None:
        await admission.acquire(tokens)
        async with self._turn:
            await asyncio.sleep(tokens / RATE)
        self.order.append(name)
        self.queue.release(tokens, done=True)


def run(use: Callable[[], Coroutine[object, object, None]]) -> None:
    asyncio.run(use())


def test_work_starts_at_once_while_there_is_room() -> None:
    async def use() -> None:
        queue = known()
        with queue.admit("a", 100) as admission:
            await admission.acquire(100)
            assert (queue.in_flight, queue.waiting) == (100, 0)
            queue.release(100, done=True)
        assert (queue.in_flight, queue.waiting) == (0, 0)

    run(use)


def test_work_in_flight_is_limited() -> None:
    async def use() -> None:
        queue = Queue(timeout_s=10)
        with queue.admit("a", 3 * MIN_IN_FLIGHT_TOKENS) as admission:
            turns = [asyncio.create_task(admission.acquire(MIN_IN_FLIGHT_TOKENS // 2)) for _ in range(6)]
            await asyncio.sleep(0)
            assert [turn.done() for turn in turns] == [True, True, True, False, False, False]
            queue.release(MIN_IN_FLIGHT_TOKENS // 2, done=True)
            await asyncio.sleep(0)
            assert sum(turn.done() for turn in turns) == 4
            await turns[3]
            for turn in turns:
                turn.cancel()

    run(use)


@pytest.mark.parametrize(
    ("rate", "tokens"),
    [(0, 2048), (1000, 2048), (10_000, 4000), (40_000, 16_000), (100_000, 16_384), (1_000_000, 50_000)],
)
def test_work_in_flight_follows_the_rate(rate: float, tokens: float) -> None:
    assert max_in_flight(rate) == pytest.approx(tokens)


@pytest.mark.parametrize(
    ("rate", "most", "tokens"),
    [
        (0, 16_384, 2048),
        (20_000, 16_384, 2048),
        (200_000, 16_384, 10_000),
        (1_000_000, 16_384, 16_384),
        (1_000_000, 2048, 2048),
        (1_000_000, 500, 500),
    ],
)
def test_batches_follow_the_rate(rate: float, most: int, tokens: int) -> None:
    queue = Queue(timeout_s=10)
    queue.rate = Rate(rate)
    assert queue.batch_tokens(most) == tokens


def test_next_batch_starts_before_the_last_one_ends() -> None:
    for rate in range(0, 2_000_000, 10_000):
        assert rate * BATCH_S <= max_in_flight(rate)


def test_small_requests_overtake_bulk_work() -> None:
    async def use() -> None:
        model = Model(known())
        bulk = asyncio.create_task(model.request("a", 50, 1000, "bulk"))
        await asyncio.sleep(0.005)
        await asyncio.gather(*(model.request("a", 1, 20, "small") for _ in range(20)))
        assert model.order.count("small") == 20
        assert model.order.count("bulk") < 25
        await bulk

    run(use)


def test_keys_share_the_model_equally() -> None:
    async def use() -> None:
        model = Model(known())
        requests: list[Awaitable[None]] = [model.request("greedy", 50, 1000) for _ in range(3)]
        requests.append(model.request("modest", 50, 1000))
        await asyncio.gather(*requests)
        last = len(model.order) - 1 - model.order[::-1].index("modest")
        until = model.order[: last + 1]
        assert until.count("greedy") == pytest.approx(until.count("modest"), rel=0.3)

    run(use)


def test_flow_that_cannot_be_served_in_time_is_refused() -> None:
    async def use() -> None:
        queue = known(rate=10_000)
        with queue.admit("bulk", 5000) as first:
            await first.acquire(5000)
            with queue.admit("a", 2000) as second, queue.admit("a", 2000), queue.admit("a", 2000):  # 0.6 s of work
                waiting = asyncio.create_task(second.acquire(2000))
                await asyncio.sleep(0)
                with pytest.raises(Overloaded) as caught, queue.admit("a", 100):
                    pass
                assert caught.value.headers == {"retry-after": "1"}
                with queue.admit("b", 100):  # another key's turn comes sooner
                    pass
                with queue.admit("a", SMALL_TOKENS + 1):  # bulk work may wait longer
                    pass
                waiting.cancel()

    run(use)


def test_rate_under_a_light_load_refuses_nothing() -> None:
    async def use() -> None:
        queue = Queue(timeout_s=10)
        queue.rate = Rate(100)
        with queue.admit("a", 5000) as first:
            await first.acquire(5000)
            waiting = asyncio.create_task(first.acquire(5000))
            await asyncio.sleep(0)
            with queue.admit("a", 2000), queue.admit("a", 100_000):
                pass
            waiting.cancel()

    run(use)


def test_bulk_request_that_cannot_be_done_in_time_is_refused_on_an_empty_flow() -> None:
    async def use() -> None:
        queue = Queue(timeout_s=20)  # of which bulk work may wait 15 s
        queue.rate = Rate(10_000, is_known=True)
        with queue.admit("a", 100_000) as first:
            await first.acquire(5000)
            waiting = asyncio.create_task(first.acquire(5000))
            await asyncio.sleep(0)
            with queue.admit("b", 70_000), pytest.raises(Overloaded), queue.admit("c", 70_000):  # 21 s between three
                pass
            waiting.cancel()

    run(use)


def test_cancelled_work_does_not_delay_its_flow() -> None:
    async def use() -> None:
        queue = known()
        with queue.admit("b", 8000) as busy:
            await busy.acquire(8000)
            with queue.admit("a", 100_000) as given_up:
                batches = [asyncio.create_task(given_up.acquire(50_000)) for _ in range(2)]
                await asyncio.sleep(0)
                for batch in batches:
                    batch.cancel()
                await asyncio.gather(*batches, return_exceptions=True)
            with queue.admit("a", 5000) as small, queue.admit("b", 5000) as other:
                turns = [asyncio.create_task(admission.acquire(5000)) for admission in (other, small)]
                await asyncio.sleep(0)
                queue.release(8000, done=True)
                await asyncio.sleep(0)
                assert [turn.done() for turn in turns] == [False, True]  # b has had 8,000
                turns[0].cancel()

    run(use)


@pytest.mark.parametrize(("timeout_s", "is_admitted"), [(100, True), (1, False)])
def test_slow_model_queues_what_fits_the_timeout(timeout_s: float, is_admitted: bool) -> None:
    async def use() -> None:
        queue = Queue(timeout_s)
        queue.rate = Rate(200, is_known=True)
        with queue.admit("bulk", 5000) as first:
            await first.acquire(5000)
            with queue.admit("a", 1000) as second:
                waiting = asyncio.create_task(second.acquire(1000))
                await asyncio.sleep(0)
                with nullcontext() if is_admitted else pytest.raises(Overloaded), queue.admit("a", 100):
                    pass
                waiting.cancel()

    run(use)


def test_refused_and_cancelled_requests_leave_nothing_behind() -> None:
    async def use() -> None:
        queue = known()
        with queue.admit("a", 8000) as admission:
            await admission.acquire(8000)
            given_up = asyncio.create_task(Model(queue).request("a", 2, 1500))
            await asyncio.sleep(0)
            assert queue.waiting == 3000
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            assert queue.waiting == 0
            queue.release(8000, done=False)
        assert queue.in_flight == 0
        with queue.admit("a", 5) as admission:
            await admission.acquire(5)

    run(use)


def test_rate_is_measured() -> None:
    async def use() -> None:
        model = Model(Queue(timeout_s=10))
        await model.request("a", 40, 20_000)
        assert 0.3 * RATE < model.queue.rate.per_second < 1.1 * RATE  # sleeping takes longer than it should

    run(use)


def test_each_model_has_its_own_queue() -> None:
    queues = Queues(timeout_s=10)
    assert queues.get("a") is queues.get("a")
    assert queues.get("a") is not queues.get("b")


def test_workers_share_a_model_by_their_waiting_flows() -> None:
    """Two workers, one with work of three keys and one with that of a single key."""

    async def use() -> None:
        shared = Board.create(2)
        many, one = (Model(Queue(1000, Board(2, shared.file, column), "m")) for column in range(2))
        one._turn, one.order = many._turn, many.order  # it is the same model
        for model in (many, one):
            model.queue.rate = Rate(RATE, is_known=True)
        in_flight = []

        async def look() -> None:
            while True:
                in_flight.append(many.queue.in_flight + one.queue.in_flight)
                await asyncio.sleep(0)

        looking = asyncio.create_task(look())
        work = [asyncio.create_task(many.request(key, 200, 1000)) for key in "abc"]
        work.append(asyncio.create_task(one.request("d", 200, 1000)))
        await eventually_async(lambda: len(many.order) >= 300)
        counts = Counter(many.order[100:300])  # the first ones were sent before the others came
        for task in (*work, looking):
            task.cancel()
        await asyncio.gather(*work, looking, return_exceptions=True)
        os.close(shared.file)
        assert all(35 <= counts[key] <= 65 for key in "abcd"), counts
        assert max(in_flight) <= max_in_flight(1.1 * RATE) + 2 * 1000

    run(use)


def test_key_counts_once_over_all_workers() -> None:
    async def use() -> None:
        shared = Board.create(2)
        first, second = (Model(Queue(1000, Board(2, shared.file, column), "m")) for column in range(2))
        second._turn, second.order = first._turn, first.order
        for model in (first, second):
            model.queue.rate = Rate(RATE, is_known=True)
        work = [asyncio.create_task(model.request("both", 200, 1000)) for model in (first, second)]
        work.append(asyncio.create_task(second.request("one", 200, 1000)))
        await eventually_async(lambda: len(first.order) >= 300)
        counts = Counter(first.order[100:300])
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        os.close(shared.file)
        assert 75 <= counts["one"] <= 125, counts

    run(use)


def test_idle_worker_learns_the_rate_from_others() -> None:
    async def use() -> None:
        shared = Board.create(2)
        busy, idle = (Model(Queue(1000, Board(2, shared.file, column), "m")) for column in range(2))
        idle._turn = busy._turn
        work = asyncio.create_task(busy.request("a", 200, 10_000))
        for _ in range(20):
            await idle.request("b", 1, 1000)
        assert idle.queue.rate.per_second > 0.3 * RATE / 2
        assert idle.queue.rate.per_second == pytest.approx(busy.queue.rate.per_second, rel=0.5)
        work.cancel()
        os.close(shared.file)

    run(use)


async def waiting(queue: Queue, key: str, tokens: int, *, background: bool) -> "asyncio.Task[None]":
    """A batch that waits for its turn."""

    async def wait() -> None:
        with queue.admit(key, tokens, background=background) as admission:
            await admission.acquire(tokens)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return task


def test_background_work_yields_to_requests_that_came_later() -> None:
    async def use() -> None:
        queue = known()
        with queue.admit("a", MIN_IN_FLIGHT_TOKENS + 1) as admission:
            await admission.acquire(MIN_IN_FLIGHT_TOKENS + 1)  # no room for others
        background = [await waiting(queue, "batch", 150, background=True) for _ in range(2)]
        assert [one.done() for one in background] == [True, False]  # one may always be in flight
        requests = [await waiting(queue, "b", MIN_IN_FLIGHT_TOKENS + 1, background=False) for _ in range(2)]
        queue.release(150, done=True, background=True)
        queue.release(MIN_IN_FLIGHT_TOKENS + 1, done=True)
        await eventually_async(requests[0].done)
        assert not background[1].done()
        queue.release(MIN_IN_FLIGHT_TOKENS + 1, done=True)
        await eventually_async(lambda: requests[1].done() and background[1].done())
        assert (queue.in_flight, queue.waiting) == (MIN_IN_FLIGHT_TOKENS + 151, 0)

    run(use)


def test_little_background_work_is_in_flight_beside_requests() -> None:
    async def use() -> None:
        queue = known(100_000)
        most = 100_000 * BACKGROUND_S
        with queue.admit("a", 1) as admission:
            await admission.acquire(1)
        batches = [await waiting(queue, "batch", 500, background=True) for _ in range(20)]
        assert sum(one.done() for one in batches) == most / 500
        assert queue.batch_tokens(16_384, background=True) == most
        assert queue.batch_tokens(16_384) == 100_000 * BATCH_S
        for one in batches:
            one.cancel()

    run(use)


def test_background_work_uses_a_model_that_nobody_else_does() -> None:
    async def use() -> None:
        queue = known(100_000)
        batches = [await waiting(queue, "batch", 500, background=True) for _ in range(40)]
        assert sum(one.done() for one in batches) == 100_000 * QUIET_BACKGROUND_S / 500
        for one in batches:
            one.cancel()

    run(use)


def test_requests_for_other_models_and_of_other_workers_count() -> None:
    shared = Board.create(2)
    queues = [Queues(10, Board(2, shared.file, column)) for column in range(2)]
    first = queues[0].get("model")
    assert first.batch_tokens(16_384, background=True) == MIN_IN_FLIGHT_TOKENS
    with queues[1].get("other").admit("a", 1):
        pass
    assert first.batch_tokens(16_384, background=True) == BACKGROUND_TOKENS


def test_background_work_never_stops_entirely() -> None:
    async def use() -> None:
        queue = Queue(timeout_s=1000)
        tokens = MIN_IN_FLIGHT_TOKENS + 1
        requests = [await waiting(queue, "a", tokens, background=False) for _ in range(3)]
        first, second = [await waiting(queue, "batch", 100, background=True) for _ in range(2)]
        assert first.done()

        async def next_request() -> bool:
            requests.append(await waiting(queue, "a", tokens, background=False))
            queue.release(tokens, done=False)
            return second.done()

        until = time.monotonic() + 100
        while not await next_request():
            assert not requests[-1].done()  # there is always another one that waits
            assert time.monotonic() < until
            await asyncio.sleep(0.01)
        for one in requests:
            one.cancel()

    run(use)


def test_background_work_is_neither_refused_nor_counted_among_flows() -> None:
    async def use() -> None:
        queue = Queue(timeout_s=10)
        queue.rate = Rate(1000, is_known=True)
        batches = [await waiting(queue, "batch", 10_000, background=True) for _ in range(20)]
        requests = [await waiting(queue, "a", 1000, background=False) for _ in range(4)]  # 4 s of work, all alone
        assert not any(one.done() and one.exception() for one in [*batches, *requests] if one.done())
        for one in [*batches, *requests]:
            one.cancel()

    run(use)


def test_cancelled_background_work_gives_its_place_back() -> None:
    async def use() -> None:
        queue = known()
        batches = [await waiting(queue, "batch", MIN_IN_FLIGHT_TOKENS, background=True) for _ in range(3)]
        batches[1].cancel()
        await asyncio.gather(batches[1], return_exceptions=True)
        queue.release(MIN_IN_FLIGHT_TOKENS, done=True, background=True)
        await eventually_async(batches[2].done)
        queue.release(MIN_IN_FLIGHT_TOKENS, done=True, background=True)
        assert queue.in_flight == 0
        assert (await waiting(queue, "batch", 1, background=True)).done()

    run(use)
