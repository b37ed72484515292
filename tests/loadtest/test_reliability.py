"""The tables of docs/reliability.md out of made results."""

from loadtest.experiments import batches, hostile, soak
from loadtest.experiments.overload import Overload
from loadtest.experiments.soak import Minute
from loadtest.reports import reliability
from loadtest.tools.steady import Case


def test_case_is_a_row_that_leaves_out_what_did_not_happen() -> None:
    whole = Case("nothing", 1500, 1500, 0, 0, 0, 0, 0, noticed_s=0, recovery_s=0, latest_ms=39)
    broken = Case("Triton killed", 10, 4, 6, 0, 0, 0, 0, noticed_s=1.04, recovery_s=2.9, latest_ms=1200)
    rows = reliability.cases([whole, broken]).splitlines()[2:]
    assert rows == [
        "| nothing | 1,500 | 1,500 | 0 | 0 | 0 | 0 | 0 |  |  | 39 ms |",
        "| Triton killed | 10 | 4 | 6 | 0 | 0 | 0 | 0 | 1.0 s | 2.9 s | 1,200 ms |",
    ]


def test_overload_says_what_is_left_of_the_peak() -> None:
    found = reliability.overload(
        Overload(
            peak_per_second=200,
            peak_p50_ms=300,
            peak_p99_ms=500,
            goodput_per_second=180,
            offered_per_second=1000,
            accepted_p50_ms=700,
            accepted_p99_ms=900,
            statuses={"429": 8000, "200": 1800},
            lost=0,
            gateway_mib=(90, 97),
            after_per_second=201,
        )
    )
    assert "| 1,000 | 180 (90%) | 700 ms | 900 ms (1.8 x) | 97 MiB at most |" in found
    assert found.endswith("Responses under overload: 1,800 x 200, 8,000 x 429.\n")


def test_endurance_compares_the_first_quarter_with_the_last() -> None:
    def minute(number: int) -> Minute:
        return Minute(number, {"200": 10}, {"rerank": 20.0 + number}, {"rerank": 40.0}, {"gateway": 100.0 + number})

    found = reliability.endurance(soak.Results({}, {"rerank": 2.0}, [minute(number) for number in range(8)]))
    assert "| rerank: p50, p99 | 20.5 ms, 40.0 ms | 26.5 ms, 40.0 ms |" in found
    assert "| gateway | 100 MiB | 106 MiB |" in found
    assert found.endswith("Requests per second: 2.0 rerank. Responses: 80 x 200.\n")


def test_attack_is_a_row_of_what_the_neighbour_noticed() -> None:
    case = hostile.Case("a large body", 41.4, 60.0, 70.0, 80.0, 90.0, 2.94, 0.2, {"413": 12, "200": 1}, failed=2)
    slow = hostile.Case("slow images", 4, 5, 6, 7, 8, None, 3.04, {}, failed=0)
    about: dict[str, str | int | float] = {"date": "2026-11-29", "cores": 2, "cpu": "CPU"}
    found = reliability.attacks(hostile.Results(about, 5, [case, slow]))
    assert found.splitlines()[2:4] == [
        "| a large body | 41 ms | 60 ms | 70 ms | 80 ms | 90 ms | 2.9 x |  | 1 x 200, 12 x 413 |",
        "| slow images | 4 ms | 5 ms | 6 ms | 7 ms | 8 ms |  | 3.0 s |  |",
    ]
    assert found.endswith("Of the neighbour's requests, 2 failed.\n")


def test_batch_is_told_by_what_requests_beside_it_noticed_and_by_what_came_of_it() -> None:
    whole = batches.Whole(120.0, 10.0, 1199, 1, 2, 3, 0.9999, 600)
    about: dict[str, str | int | float] = {"date": "2026-11-30", "cores": 2, "cpu": "CPU"}
    without, beside = batches.Online(1500, 30.2, 100.0, 0), batches.Online(1400, 50.4, 140.0, 1)
    found = reliability.background(batches.Results(about, 1200, 8.0, without, beside, whole))
    assert "| 1,400 beside a batch | 50 ms | 140 ms | 1 |" in found
    assert "the p99 is 1.40 times as long. The batch of 1,200 texts" in found
    assert (
        "in 2 minutes, 10 texts/s. The gateway was killed when 600 texts were done: 2 were lost, 3 done twice" in found
    )
