"""A rate is given results with their times, so nothing here waits."""

import pytest

from gateway.scheduling.rate import Rate


def loaded(rate: Rate, per_second: int, seconds: float, *, is_full: bool = True) -> Rate:
    """Add ten results per second."""
    for _ in range(round(10 * seconds)):
        rate.add(per_second // 10, 0.1, is_full=is_full)
    return rate


def test_full_load_makes_the_rate_known() -> None:
    assert not loaded(Rate(), 50_000, 0.1).is_known
    rate = loaded(Rate(), 50_000, 1)
    assert rate.is_known
    assert rate.per_second == pytest.approx(50_000)


def test_light_load_shows_a_rate_that_is_not_known() -> None:
    rate = loaded(Rate(), 3000, 60, is_full=False)
    assert not rate.is_known
    assert rate.per_second == pytest.approx(3000)


def test_light_load_raises_the_rate_and_never_lowers_it() -> None:
    rate = loaded(Rate(), 50_000, 5)
    loaded(rate, 1000, 600, is_full=False)
    assert rate.per_second > 40_000
    loaded(rate, 200_000, 30, is_full=False)
    assert rate.per_second == pytest.approx(200_000, rel=0.01)


def test_first_seconds_of_a_full_load_outweigh_an_hour_of_light_load() -> None:
    rate = loaded(Rate(), 3000, 3600, is_full=False)
    loaded(rate, 1_000_000, 0.5)
    assert rate.is_known
    assert rate.per_second == pytest.approx(1_000_000, rel=0.1)


def test_slower_model_lowers_the_rate() -> None:
    rate = loaded(Rate(), 50_000, 60)
    loaded(rate, 10_000, 10)
    assert rate.per_second == pytest.approx(10_000, rel=0.05)


def test_results_that_arrive_together_count_alike() -> None:
    rate = Rate()
    for _ in range(100):  # executions of eight requests; what waited is then with the model
        rate.add(100, 0.08, is_full=True)
        for _ in range(7):
            rate.add(100, 0.0, is_full=False)
    assert rate.per_second == pytest.approx(10_000, rel=0.01)
