import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.catalog import TritonModel
from gateway.errors import InferenceFailed, InvalidRequest, NotReady
from gateway.scheduling.admission import MIN_IN_FLIGHT_TOKENS
from gateway.service import batches
from gateway.service.batches import Batch
from gateway.service.caller import Caller
from gateway.service.shared_calls import Tensors
from gateway.triton import Output
from tests.gateway.service.recording import EMBEDDING, RecordingTriton, caller

MODEL = TritonModel("m", "m", "text-embedding", {"embedding": EMBEDDING}, 4)


async def numbered(rows: Sequence[int]) -> Tensors:
    return {"numbers": np.array(rows, np.float32)[:, None]}


async def infer(
    who: Caller,
    split: Sequence[Batch],
    tensors: Callable[[Sequence[int]], Awaitable[Tensors]] = numbered,
) -> NDArray[np.float32]:
    """The embedding of each row."""
    results = np.full((sum(len(batch.rows) for batch in split), 1), np.nan, np.float32)

    def store(rows: Sequence[int], outputs: Sequence[NDArray[np.generic]]) -> None:
        results[rows] = outputs[0]

    await batches.infer(who, MODEL, split, tensors, [EMBEDDING], store)
    return results


def test_results_are_in_the_order_of_the_rows() -> None:
    split = [Batch([3, 1], 2), Batch([0, 2, 4], 3)]
    results = asyncio.run(infer(caller(RecordingTriton()), split))
    assert results[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_no_batches_give_no_rows() -> None:
    assert asyncio.run(infer(caller(RecordingTriton()), [])).shape == (0, 1)


def test_one_call_does_not_fill_the_queue() -> None:
    triton = RecordingTriton()
    asyncio.run(infer(caller(triton), [Batch([i], 1) for i in range(100)]))
    assert triton.most_at_a_time == batches.MAX_PREPARED


def test_nothing_is_sent_after_a_failure() -> None:
    triton = RecordingTriton(fail_at=3)
    with pytest.raises(NotReady):
        asyncio.run(infer(caller(triton), [Batch([i], 1) for i in range(100)]))
    assert len(triton.calls) == 3


def test_error_is_that_of_the_first_failing_batch_in_order() -> None:
    async def tensors(rows: Sequence[int]) -> Tensors:
        await asyncio.sleep(0.1 if rows == [2] else 0)
        if rows in ([2], [5]):
            raise InvalidRequest(f"row {rows[0]}")
        return await numbered(rows)

    for _ in range(3):
        with pytest.raises(InvalidRequest, match="row 2"):
            asyncio.run(infer(caller(RecordingTriton()), [Batch([i], 1) for i in range(20)], tensors))


def test_call_cancelled_in_the_queue_is_never_sent() -> None:
    triton = RecordingTriton()

    async def use() -> None:
        who = caller(triton)
        queue = who.queues.get(MODEL.triton_name)
        much = MIN_IN_FLIGHT_TOKENS + 1
        with queue.admit("another", much) as admission:
            await admission.acquire(much)
            call = asyncio.create_task(infer(who, [Batch([0], 1)]))
            await asyncio.sleep(0.01)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            queue.release(much, done=True)
        assert not triton.calls
        assert (queue.in_flight, queue.waiting) == (0, 0)

    asyncio.run(use())


def test_failure_cancels_later_batches() -> None:
    begun: list[int] = []

    async def tensors(rows: Sequence[int]) -> Tensors:
        begun.extend(rows)
        if rows == [1]:
            raise InvalidRequest("row 1")
        await asyncio.sleep(0 if rows == [0] else 10)
        return await numbered(rows)

    with pytest.raises(InvalidRequest, match="row 1"):
        asyncio.run(infer(caller(RecordingTriton()), [Batch([i], 1) for i in range(20)], tensors))
    assert len(begun) <= batches.MAX_PREPARED + 1  # the first has made room for one


def test_cancelled_call_stays_in_flight_until_triton_is_done() -> None:
    done = asyncio.Event()

    class SlowTriton(RecordingTriton):
        async def infer(
            self, model: str, tensors: Mapping[str, NDArray[np.generic]], outputs: Sequence[Output]
        ) -> list[NDArray[np.generic]]:
            await done.wait()
            return await super().infer(model, tensors, outputs)

    async def use() -> None:
        who = caller(SlowTriton())
        queue = who.queues.get(MODEL.triton_name)
        call = asyncio.create_task(infer(who, [Batch([0], 7)]))
        await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert queue.in_flight == 7
        done.set()
        await asyncio.sleep(0.01)
        assert queue.in_flight == 0

    asyncio.run(use())


@pytest.mark.parametrize("count", [1, 20])
def test_rows_of_a_failed_call_are_freed_at_once(count: int) -> None:
    """Without a garbage collection, which may be far away: those of images may have a hundred megabytes."""

    async def use() -> list[weakref.ref[NDArray[np.generic]]]:
        sent: list[weakref.ref[NDArray[np.generic]]] = []

        async def tensors(rows: Sequence[int]) -> Tensors:
            made = await numbered(rows)
            sent.append(weakref.ref(made["numbers"]))
            return made

        with suppress(NotReady):
            await infer(caller(RecordingTriton(fail_at=0)), [Batch([i], 1) for i in range(count)], tensors)
        await asyncio.sleep(0.01)
        return sent

    gc.disable()
    try:
        assert [made() for made in asyncio.run(use())] == [None] * min(count, batches.MAX_PREPARED)
    finally:
        gc.enable()


def test_halves_of_a_failed_batch_are_stored_in_their_rows() -> None:
    class SmallTriton(RecordingTriton):
        async def infer(
            self, model: str, tensors: Mapping[str, NDArray[np.generic]], outputs: Sequence[Output]
        ) -> list[NDArray[np.generic]]:
            if len(tensors["numbers"]) > 2:
                raise InferenceFailed("no memory")
            return await super().infer(model, tensors, outputs)

    triton = SmallTriton()
    results = asyncio.run(infer(caller(triton), [Batch([4, 0, 3, 1, 2], 5)]))
    assert results[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert sorted(len(call["numbers"]) for call in triton.calls) == [1, 2, 2]
