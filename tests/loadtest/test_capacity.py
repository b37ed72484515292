from pathlib import Path

import msgspec
import numpy as np
import pytest

from loadtest import bench
from loadtest.capacity import (
    RESULTS,
    SCATTERED,
    Cost,
    Demand,
    Results,
    alone_s,
    expect,
    fit,
    histogram,
    least_s,
    main,
    plan,
    simulate,
    table,
)

STORED = msgspec.json.decode(RESULTS.read_bytes(), type=Results)
SHORT = Demand(100, 1, np.array([16]), np.array([1.0]))
COST = Cost(execution_s=0.002, row_s=0.0005, token_s=0.00005, handover=0)


def run(rows: int, tokens: int, clients: int = 1) -> bench.Run:
    """A hundred executions of so much."""
    work = {"rows": 100.0 * rows, "executions": 100.0, "tokens": 100.0 * tokens}
    return bench.Run("a", "conch", 0, clients, 100 * COST.of(rows, tokens), 100 * rows, 100 * rows, {}, {}, work)


def test_cost_is_found_again_in_runs_that_it_made_and_is_higher_for_scattered_requests() -> None:
    found = fit([run(*seen) for seen in ((1, 20), (8, 150), (20, 400), (7, 500), (19, 1300))])
    costs = np.array([found.execution_s, found.row_s, found.token_s])
    assert costs / SCATTERED == pytest.approx([0.002, 0.0005, 0.00005])


def test_handover_is_what_waiting_clients_need_beyond_two_executions() -> None:
    """Little's law: 16 requests in a server that does 6.4 an execution are there for 2.5 executions."""
    assert fit([run(8, 150, 16), run(5, 100, 16), run(64, 150, 16)]).handover == 0
    assert fit([run(5, 150, 12), run(5, 100, 12), run(20, 150, 50)]).handover == pytest.approx(0.4)


def test_without_batches_the_wait_is_that_of_pollaczek_and_khinchine() -> None:
    """M/D/1: the mean wait is rho s / 2 (1 - rho)."""
    chance, service_s, busy = np.random.default_rng(0), 0.01, 0.7
    arrivals = chance.exponential(service_s / busy, 200_000).cumsum()
    latencies = simulate(Cost(service_s, 0, 0, 0), arrivals, 1, np.ones(len(arrivals), np.int64), most_rows=1)
    assert latencies.mean() == pytest.approx(service_s + busy * service_s / (2 * (1 - busy)), rel=0.05)


def test_what_waits_together_is_executed_together() -> None:
    arrivals = np.array([0.0, 0.001, 0.002])
    latencies = simulate(Cost(1, 0, 0, 0), arrivals, 1, np.array([5, 5, 5]))
    assert latencies == pytest.approx([1, 1.999, 1.998])


def test_what_comes_late_in_an_execution_misses_the_next_one() -> None:
    arrivals = np.array([0.0, 0.5, 0.9])
    latencies = simulate(Cost(1, 0, 0, handover=0.25), arrivals, 1, np.array([5, 5, 5]))
    assert latencies == pytest.approx([1, 1.5, 2.1])


def test_execution_holds_no_more_rows_than_it_may() -> None:
    latencies = simulate(Cost(1, 0, 0, 0), np.zeros(3), 2, np.array([5, 5, 5]), most_rows=4)
    assert latencies.tolist() == [1, 1, 2]


def test_latency_grows_with_the_rate() -> None:
    slow, fast = (expect(COST, SHORT, share / least_s(COST, SHORT))[95] for share in (0.2, 0.9))
    assert slow < fast


def test_replicas_grow_with_the_rate_and_are_never_overfull() -> None:
    found = [plan(COST, Demand(rate, 1, SHORT.lengths, SHORT.shares), 0.1, 95) for rate in (10, 5_000, 50_000)]
    assert [one.replicas for one in found if one] == sorted({one.replicas for one in found if one})
    assert all(one is not None and one.busy <= 0.95 and one.latency_s[95] <= 0.1 for one in found)


def test_no_replicas_help_what_takes_too_long_alone() -> None:
    assert plan(COST, SHORT, 0.001, 50) is None


def test_request_alone_takes_one_execution() -> None:
    assert alone_s(COST, Demand(1, 4, np.array([10, 30]), np.array([0.5, 0.5]))) == pytest.approx(0.002 + 0.002 + 0.004)


def test_costs_of_another_machine_may_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cost", "2:0.5:0.05", "--lengths", "16:1", "--rate", "100"]) == 0
    said = capsys.readouterr().out
    assert "2 for each execution, 0.5 for each row, 0.05 for each token" in said
    assert "one request alone takes 3 ms" in said


def test_histogram_is_read() -> None:
    lengths, shares = histogram("16:3,64:1")
    assert (lengths.tolist(), shares.tolist()) == ([16, 64], [0.75, 0.25])


@pytest.mark.parametrize("text", ["", "16", "0:1", "16:0", "16:-1,8:2", "a:1"])
def test_what_is_no_histogram_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        histogram(text)


def test_stored_benchmark_can_be_fitted() -> None:
    results = msgspec.json.decode(bench.RESULTS.read_bytes(), type=bench.Results)
    cost = fit([*results.runs, *results.sweep])
    assert min(cost.execution_s, cost.row_s, cost.token_s) > 0


@pytest.mark.parametrize(("percentile", "most"), [(50, 2), (95, 2), (99, 3)])
def test_stored_check_is_as_near_as_the_page_says(percentile: int, most: float) -> None:
    ratios = [check.measured_ms[percentile] / check.expected_ms[percentile] for check in STORED.checks]
    assert len(ratios) == 9
    assert 0.5 < min(ratios) <= max(ratios) < most


def test_page_shows_what_is_stored() -> None:
    assert table(STORED) in Path("docs/operations.md").read_text()
