import asyncio

import pytest

from gateway.telemetry.timings import Stages


def test_time_of_a_stage_is_noted_even_if_it_fails() -> None:
    stages = Stages()
    with pytest.raises(ValueError, match="broken"), stages.stage("parse"):
        raise ValueError("broken")
    assert [name for name, _ in stages.times] == ["parse"]


async def _two_at_a_time(stages: Stages) -> None:
    async def one(seconds: float) -> None:
        with stages.stage("inference"):
            await asyncio.sleep(seconds)

    await asyncio.gather(one(0.01), one(0.05))


def test_parts_under_way_together_count_as_long_as_the_longest() -> None:
    stages = Stages()
    asyncio.run(_two_at_a_time(stages))
    assert 0.05 <= stages.longest_s("inference") < sum(seconds for _, seconds in stages.times)


def test_stage_that_never_began_took_no_time() -> None:
    assert Stages().longest_s("decode") == 0


def test_reply_begins_where_the_last_stage_ended() -> None:
    stages = Stages()
    with stages.stage("inference"):
        pass
    inference_ended_at = stages.ended_at
    stages.end("reply", inference_ended_at)
    assert stages.times[-1] == ("reply", stages.ended_at - inference_ended_at)
