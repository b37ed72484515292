import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from gateway.catalog import Tower
from gateway.errors import InferenceFailed, InvalidRequest, NotReady
from gateway.service import parts
from tests.gateway.service.recording import RecordingTriton

TOWER = Tower("m", "m", "text-embedding", "embedding", 1, 4)


async def numbered(part: Sequence[int]) -> parts.Tensors:
    return {"numbers": np.array(part, np.float32)[:, None]}


def test_answers_are_put_in_the_order_of_the_rows() -> None:
    cut = [[3, 1], [0, 2, 4]]
    assert asyncio.run(parts.run(RecordingTriton(), TOWER, cut, numbered))[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_no_parts_make_no_rows() -> None:
    assert asyncio.run(parts.run(RecordingTriton(), TOWER, [], numbered)).shape == (0, 1)


def test_one_call_does_not_fill_the_queue() -> None:
    triton = RecordingTriton()
    asyncio.run(parts.run(triton, TOWER, [[i] for i in range(100)], numbered))
    assert triton.most_at_a_time == parts.IN_FLIGHT


def test_after_a_failure_nothing_more_is_sent() -> None:
    triton = RecordingTriton(fail_at=3)
    with pytest.raises(NotReady):
        asyncio.run(parts.run(triton, TOWER, [[i] for i in range(100)], numbered))
    assert len(triton.calls) == 3


def test_the_first_part_that_fails_is_reported_though_a_later_one_fails_sooner() -> None:
    async def tensors(part: Sequence[int]) -> parts.Tensors:
        await asyncio.sleep(0.1 if part == [2] else 0)
        if part in ([2], [5]):
            raise InvalidRequest(f"row {part[0]}")
        return await numbered(part)

    for _ in range(3):
        with pytest.raises(InvalidRequest, match="row 2"):
            asyncio.run(parts.run(RecordingTriton(), TOWER, [[i] for i in range(20)], tensors))


def test_answer_of_another_shape_is_no_answer() -> None:
    async def tensors(part: Sequence[int]) -> parts.Tensors:
        return {"numbers": np.zeros((len(part) + 1, 1), np.float32)}

    with pytest.raises(InferenceFailed, match=r"shape \(3, 1\) where \(2, 1\) was due"):
        asyncio.run(parts.run(RecordingTriton(), TOWER, [[0, 1]], tensors))
