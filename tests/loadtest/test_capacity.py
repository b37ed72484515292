import re
import subprocess
import sys

import msgspec
import numpy as np
import pytest

from export.packing import memory
from loadtest.experiments.capacity import SCATTERED, fit, histogram, main
from loadtest.experiments.capacity_check import RESULTS, Results
from loadtest.reports.capacity import PAGE, table
from loadtest.tools import benchmark
from loadtest.tools.queueing import (
    MAX_BATCH_SIZE,
    Cost,
    Demand,
    alone_s,
    expect,
    fewest,
    least_s,
    plan,
    simulate,
)

STORED = msgspec.json.decode(RESULTS.read_bytes(), type=Results)
SHORT = Demand(100, 1, np.array([16]), np.array([1.0]))
COST = Cost(execution_s=0.002, row_s=0.0005, token_s=0.00005, handover=0)


def run(rows: int, tokens: int, clients: int = 1) -> benchmark.Run:
    """A hundred executions of so much."""
    work = {"rows": 100.0 * rows, "executions": 100.0, "tokens": 100.0 * tokens}
    return benchmark.Run("a", "conch", 0, clients, 100 * COST.of(rows, tokens), 100 * rows, 100 * rows, {}, {}, work)


def test_executions_are_as_large_as_those_of_exported_models() -> None:
    assert MAX_BATCH_SIZE == memory.MAX_BATCH_SIZE


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
    latencies = simulate(Cost(service_s, 0, 0, 0), arrivals, MAX_BATCH_SIZE, np.full(len(arrivals), 64))
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
    latencies = simulate(Cost(1, 0, 0, 0), np.zeros(3), MAX_BATCH_SIZE // 2, np.array([5, 5, 5]))
    assert latencies.tolist() == [1, 1, 2]


def test_execution_holds_half_of_the_tokens_that_the_gateway_lets_be_at_triton() -> None:
    """At 10,000 tokens a second 4,000 are there; a slow model has 2,048."""
    fast, slow = Cost(1, 0, 1e-4, 0), Cost(1, 0, 1e-3, 0)
    assert (fast.most_tokens, slow.most_tokens, Cost(1, 0, 0, 0).most_tokens) == (2000, 1024, np.inf)
    assert simulate(fast, np.zeros(3), 1, np.array([1000, 1000, 3000])) == pytest.approx([1.2, 1.2, 2.5])
    assert simulate(slow, np.zeros(3), 1, np.array([500, 500, 100])) == pytest.approx([2, 2, 3.1])


@pytest.mark.parametrize(("texts", "tokens"), [(1, 16), (1, 200), (8, 16), (20, 64), (50, 16), (64, 300), (200, 16)])
def test_full_replica_does_what_is_counted_on(texts: int, tokens: int) -> None:
    """Executions hold whole requests: of 200 tokens, 10 and not 10.24."""
    count = 960
    latencies = simulate(COST, np.zeros(count), texts, np.full(count, texts * tokens))
    least = least_s(COST, Demand(1, texts, np.array([tokens]), np.array([1.0])))
    assert least * (1 - 1e-9) < latencies[-1] / count < 1.05 * least


def test_latency_grows_with_the_rate() -> None:
    slow, fast = (expect(COST, SHORT.draw(), share / least_s(COST, SHORT))[95] for share in (0.2, 0.9))
    assert slow < fast


def test_requests_are_drawn_with_the_lengths_and_the_rate_of_the_demand() -> None:
    demand = Demand(7, 4, np.array([10, 30]), np.array([0.75, 0.25]))
    drawn = demand.draw()
    assert demand.mean_tokens == 60
    assert drawn.tokens.mean() == pytest.approx(60, rel=0.02)
    assert set(drawn.tokens.tolist()) == {40, 60, 80, 100, 120}
    assert np.diff(drawn.arrivals).mean() == pytest.approx(1, rel=0.02)


def test_replicas_grow_with_the_rate_and_are_never_overfull() -> None:
    found = [plan(COST, Demand(rate, 1, SHORT.lengths, SHORT.shares), 0.1, 95) for rate in (10, 5_000, 50_000)]
    assert [one.replicas for one in found if one] == sorted({one.replicas for one in found if one})
    assert all(one is not None and one.busy <= 0.95 and one.latency_s[95] <= 0.1 for one in found)


@pytest.mark.parametrize("within_s", [0.0045, 0.006, 0.1])
def test_one_replica_fewer_is_not_enough(within_s: float) -> None:
    demand = Demand(2_000, 1, SHORT.lengths, SHORT.shares)
    found = plan(COST, demand, within_s, 95)
    assert found is not None
    assert found.latency_s[95] <= within_s
    fewer = found.replicas - 1
    assert fewer < fewest(COST, demand) or expect(COST, demand.draw(), demand.rate / fewer)[95] > within_s


def test_replicas_without_number_are_not_looked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cost", "2:0.5:0.05", "--rate", "1e9"]) == 1
    assert "more than 10,000 replicas" in capsys.readouterr().out


def test_operators_need_nothing_that_exports_or_measures() -> None:
    code = "import sys, loadtest.experiments.capacity; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"export", "torch", "transformers", "openvino", "psutil", "matplotlib"} & set(loaded)


def test_no_replicas_help_what_takes_too_long_alone() -> None:
    assert plan(COST, SHORT, 0.001, 50) is None


def test_request_alone_takes_one_execution() -> None:
    assert alone_s(COST, Demand(1, 4, np.array([10, 30]), np.array([0.5, 0.5]))) == pytest.approx(0.002 + 0.002 + 0.004)


def test_costs_of_another_machine_may_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    answer = said(["--cost", "2:0.5:0.05", "--lengths", "16:1", "--rate", "100"], capsys)
    assert "2 per execution, 0.5 per row, 0.05 per token" in answer
    assert "one request alone takes 3 ms" in answer


def test_page_says_of_the_h100_what_the_tool_does(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--cost", "1.15:0:0.0006", "--lengths", "128:1"]
    cost = Cost(1.15e-3, 0, 0.6e-6, handover=0)
    most = 1 / least_s(cost, Demand(1, 1, np.array([128]), np.array([1.0])))
    page = " ".join(PAGE.read_text().split())
    assert "1.15 per execution, 0 per row, 0.0006 per token" in said(given, capsys)
    assert f"`--cost 1.15:0:0.0006` promises {round(most, -2):,.0f} texts of 128 tokens per second" in page
    assert "replicas: 1, " in said([*given, "--rate", str(0.94 * most)], capsys)
    assert "replicas: 2, " in said([*given, "--rate", str(0.96 * most)], capsys)


def said(given: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the tool answers."""
    assert main(given) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["--texts", "0"], "must be 1 or more"),
        (["--rate", "nan"], "must be over 0, and finite"),
        (["--rate", "-1"], "must be over 0, and finite"),
        (["--within", "inf"], "must be over 0, and finite"),
        (["--cost", "0:0:0"], "must be three numbers, finite, not negative, nor all 0"),
        (["--cost", "1:-1:1"], "must be three numbers"),
        (["--cost", "1:nan:1"], "must be three numbers"),
        (["--cost", "1:1"], "must be three numbers"),
        (["--lengths", "16:nan"], "weights finite"),
        (["--lengths", "16:inf"], "weights finite"),
    ],
)
def test_what_makes_no_sense_is_refused(given: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(given)
    assert why in " ".join(capsys.readouterr().err.split())


def test_histogram_is_read() -> None:
    lengths, shares = histogram("16:3,64:1")
    assert (lengths.tolist(), shares.tolist()) == ([16, 64], [0.75, 0.25])


@pytest.mark.parametrize("text", ["", "16", "0:1", "16:0", "16:-1,8:2", "a:1"])
def test_what_is_no_histogram_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        histogram(text)


def test_stored_benchmark_can_be_fitted() -> None:
    results = msgspec.json.decode(benchmark.RESULTS.read_bytes(), type=benchmark.Results)
    cost = fit([*results.runs, *results.sweep])
    assert min(cost.execution_s, cost.row_s, cost.token_s) > 0


@pytest.mark.parametrize(("percentile", "least", "most"), [(50, 0.7, 1.3), (95, 0.7, 2.0), (99, 0.6, 2.4)])
def test_stored_check_is_as_near_as_the_page_says(percentile: int, least: float, most: float) -> None:
    page = " ".join(PAGE.read_text().split())
    assert re.search(rf"p{percentile} (was )?{least} to {most} times", page)
    ratios = [check.measured_ms[percentile] / check.expected_ms[percentile] for check in STORED.checks]
    assert len(ratios) == 9
    assert least <= min(ratios) <= max(ratios) <= most


def test_page_shows_what_is_stored() -> None:
    assert table(STORED) in PAGE.read_text()
