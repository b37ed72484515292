"""The engine's simulated time by cores, against measurements."""

import itertools

import pytest

from loadtest.tools import scaling
from loadtest.tools.scaling import Model, Pack

MEASURED = [
    Pack(rows, tokens, 1, threads, ms)
    for (rows, tokens), times in {
        (1, 16): (1.30, 1.13),
        (4, 16): (3.84, 2.70),
        (16, 16): (13.9, 8.9),
        (1, 64): (3.90, 2.72),
        (4, 64): (14.2, 8.8),
        (16, 64): (52.8, 30.7),
        (1, 256): (16.4, 10.1),
        (4, 256): (63.2, 33.9),
    }.items()
    for threads, ms in zip((1, 2), times, strict=True)
]
"""all-MiniLM-L6-v2 in bf16, a padded graph in OpenVINO on two quiet AVX-512 cores, in November 2026."""
MODEL = Model(pack_ms=0.5, token_ms=0.05, cell_ms=4e-5, serial=0.1, barrier_ms=0.4, contention=0.05)


def made(model: Model) -> list[Pack]:
    """What would be measured if a model were exact."""
    shapes = itertools.product((1, 4, 16), (16, 64, 256))
    settings = ((1, 1), (1, 2), (2, 1), (1, 4), (4, 1))
    return [
        Pack(rows, tokens, streams, threads, model.ms([tokens] * rows, threads, streams))
        for (rows, tokens), (streams, threads) in itertools.product(shapes, settings)
    ]


def test_fit_finds_the_costs_that_packs_were_made_with() -> None:
    found = scaling.fit(made(MODEL))
    assert [getattr(found, name) for name in MODEL.__slots__] == pytest.approx(
        [getattr(MODEL, name) for name in MODEL.__slots__], rel=1e-3
    )


def test_model_explains_what_was_measured_on_one_and_two_threads() -> None:
    beside = [Pack(pack.rows, pack.tokens, 2, 1, pack.ms) for pack in MEASURED if pack.threads == 1]
    model = scaling.fit([*MEASURED, *beside])
    assert max(abs(scaling.error(model, pack)) for pack in MEASURED) < 0.1


def test_fit_needs_packs_of_each_kind() -> None:
    with pytest.raises(ValueError, match="side by side"):
        scaling.fit(MEASURED)


def test_packs_run_side_by_side_where_enough_rows_wait() -> None:
    for cores in (2, 4):
        plan = scaling.best(MODEL, [18] * 64, cores)
        assert (plan.streams, plan.threads) == (cores, 1)


def test_a_single_row_takes_threads_only_where_they_gain() -> None:
    assert scaling.best(MODEL, [256], 2).threads == 2
    slow = Model(0.5, 0.05, 4e-5, serial=0.1, barrier_ms=100, contention=0.05)
    assert scaling.best(slow, [256], 2).threads == 1


def test_every_row_is_computed_once() -> None:
    free = Model(pack_ms=0, token_ms=1, cell_ms=0, serial=0, barrier_ms=0, contention=0)
    assert scaling.plan(free, [10] * 64, streams=1, threads=1).ms == pytest.approx(640)
    assert scaling.plan(free, [10] * 64, streams=4, threads=1).ms == pytest.approx(160)
    assert scaling.plan(free, [10] * 64, streams=4, threads=2).ms == pytest.approx(80)


def test_more_cores_are_never_slower_and_never_more_than_proportional() -> None:
    alone = scaling.best(MODEL, [18] * 256, 1).ms
    times = [scaling.best(MODEL, [18] * 256, 2**i).ms for i in range(7)]
    assert times == sorted(times, reverse=True)
    assert all(alone / ms <= 2**i for i, ms in enumerate(times))


def test_a_server_scales_as_its_engine_lets_it() -> None:
    assert scaling.served(100, engine_share=0.5, model=MODEL, cores=1) == 100
    assert scaling.served(100, engine_share=0.5, model=MODEL, cores=5) == pytest.approx(500 / 1.1)
    assert scaling.served(100, engine_share=0, model=MODEL, cores=5) == 500
