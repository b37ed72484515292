import asyncio

import pytest

from gateway.telemetry.timings import Timings


def test_time_of_a_failed_stage_is_recorded() -> None:
    timings = Timings()
    with pytest.raises(ValueError, match="broken"), timings.stage("parse"):
        raise ValueError("broken")
    assert [name for name, _ in timings.times] == ["parse"]


async def _two_at_a_time(timings: Timings) -> None:
    async def one(seconds: float) -> None:
        with timings.stage("inference"):
            await asyncio.sleep(seconds)

    await asyncio.gather(one(0.01), one(0.05))


def test_concurrent_batches_count_as_the_longest() -> None:
    timings = Timings()
    asyncio.run(_two_at_a_time(timings))
    assert 0.05 <= timings.longest_s("inference") < sum(seconds for _, seconds in timings.times)


def test_stage_that_never_began_took_no_time() -> None:
    assert Timings().longest_s("decode") == 0


def test_reply_begins_where_the_last_stage_ended() -> None:
    timings = Timings()
    with timings.stage("inference"):
        pass
    inference_ended_at = timings.ended_at
    timings.end("reply", inference_ended_at)
    assert timings.times[-1] == ("reply", timings.ended_at - inference_ended_at)
