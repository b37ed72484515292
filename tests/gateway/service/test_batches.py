import asyncio
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.catalog import TritonModel
from gateway.errors import InferenceFailed, InvalidRequest, NotReady
from gateway.scheduling.admission import LEAST_UNDER_WAY
from gateway.service import batches
from gateway.service.batches import Part
from tests.gateway.service.recording import RecordingTriton, caller

TOWER = TritonModel("m", "m", "text-embedding", "embedding", 1, 4)


async def numbered(part: Sequence[int]) -> batches.Tensors:
    return {"numbers": np.array(part, np.float32)[:, None]}


def test_answers_are_put_in_the_order_of_the_rows() -> None:
    cut = [Part([3, 1], 2), Part([0, 2, 4], 3)]
    assert asyncio.run(batches.run(caller(RecordingTriton()), TOWER, cut, numbered))[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_no_parts_make_no_rows() -> None:
    assert asyncio.run(batches.run(caller(RecordingTriton()), TOWER, [], numbered)).shape == (0, 1)


def test_one_call_does_not_fill_the_queue() -> None:
    triton = RecordingTriton()
    asyncio.run(batches.run(caller(triton), TOWER, [Part([i], 1) for i in range(100)], numbered))
    assert triton.most_at_a_time == batches.IN_FLIGHT


def test_after_a_failure_nothing_more_is_sent() -> None:
    triton = RecordingTriton(fail_at=3)
    with pytest.raises(NotReady):
        asyncio.run(batches.run(caller(triton), TOWER, [Part([i], 1) for i in range(100)], numbered))
    assert len(triton.calls) == 3


def test_the_first_part_that_fails_is_reported_though_a_later_one_fails_sooner() -> None:
    async def tensors(part: Sequence[int]) -> batches.Tensors:
        await asyncio.sleep(0.1 if part == [2] else 0)
        if part in ([2], [5]):
            raise InvalidRequest(f"row {part[0]}")
        return await numbered(part)

    for _ in range(3):
        with pytest.raises(InvalidRequest, match="row 2"):
            asyncio.run(batches.run(caller(RecordingTriton()), TOWER, [Part([i], 1) for i in range(20)], tensors))


def test_answer_of_another_shape_is_no_answer() -> None:
    async def tensors(part: Sequence[int]) -> batches.Tensors:
        return {"numbers": np.zeros((len(part) + 1, 1), np.float32)}

    with pytest.raises(InferenceFailed, match=r"shape \(3, 1\) where \(2, 1\) was due"):
        asyncio.run(batches.run(caller(RecordingTriton()), TOWER, [Part([0, 1], 2)], tensors))


def test_work_that_is_given_up_while_it_waits_is_never_sent() -> None:
    triton = RecordingTriton()

    async def use() -> None:
        who = caller(triton)
        line = who.lines.of(TOWER.triton_name)
        much = LEAST_UNDER_WAY + 1
        with line.admit("another", much) as ticket:
            await ticket.turn(much)
            call = asyncio.create_task(batches.run(who, TOWER, [Part([0], 1)], numbered))
            await asyncio.sleep(0.01)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            line.leave(much, done=True)
        assert not triton.calls
        assert (line.in_flight, line.waiting) == (0, 0)

    asyncio.run(use())


def test_a_failure_ends_the_parts_behind_it() -> None:
    begun: list[int] = []

    async def tensors(part: Sequence[int]) -> batches.Tensors:
        begun.extend(part)
        if part == [1]:
            raise InvalidRequest("row 1")
        await asyncio.sleep(0 if part == [0] else 10)
        return await numbered(part)

    with pytest.raises(InvalidRequest, match="row 1"):
        asyncio.run(batches.run(caller(RecordingTriton()), TOWER, [Part([i], 1) for i in range(20)], tensors))
    assert len(begun) <= batches.IN_FLIGHT + 1  # the first has made room for one


def test_a_call_that_is_given_up_takes_room_until_triton_is_done() -> None:
    done = asyncio.Event()

    class SlowTriton(RecordingTriton):
        async def infer(
            self, model: str, tensors: Mapping[str, NDArray[np.generic]], output: str
        ) -> NDArray[np.float32]:
            await done.wait()
            return await super().infer(model, tensors, output)

    async def use() -> None:
        who = caller(SlowTriton())
        line = who.lines.of(TOWER.triton_name)
        call = asyncio.create_task(batches.run(who, TOWER, [Part([0], 7)], numbered))
        await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert line.in_flight == 7
        done.set()
        await asyncio.sleep(0.01)
        assert line.in_flight == 0

    asyncio.run(use())
