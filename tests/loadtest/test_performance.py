"""Tables and pictures out of made results."""

from pathlib import Path

from msgspec.structs import replace

from loadtest.experiments import cache, cost
from loadtest.reports import performance
from loadtest.tools.benchmark import PERCENTILES, Ceiling, Growth, Results, Run


def run(workload: str, server: str, number: int, requests: int, clients: int = 16) -> Run:
    latency = {f"p{place:g}": 10.0 + place for place in PERCENTILES}
    work = {"rows": requests, "executions": requests / 4, "tokens": 18.0 * requests, "padding": 0.9 * requests}
    cpu_s = {"clients": 0.1} | ({"gateway": 0.3} if server.startswith("conch") else {})
    return Run(workload, server, number, clients, 2.0, requests, requests, latency, cpu_s, work)


RESULTS = Results(
    machine={"date": "2026-11-25"},
    baseline={},
    workloads={"short-16": "short texts, 16 clients", "images": "images, 4 clients"},
    runs=[
        run("short-16", "conch", 0, 600),
        run("short-16", "conch (int8)", 0, 800),
        run("short-16", "infinity (optimum)", 0, 200),
        run("short-16", "infinity (torch)", 0, 100),
        run("short-16", "conch", 1, 1000),
        run("short-16", "infinity (optimum)", 1, 200),
        run("short-16", "infinity (torch)", 1, 100),
        run("images", "conch", 0, 80),
    ],
    sweep=[run("short-16", server, 0, 10, clients) for server in ("conch", "infinity (optimum)") for clients in (1, 2)],
    ceilings=[
        Ceiling("short-16", 0, 800.0, 8000.0),
        Ceiling("short-16", 0, 400.0, 4000.0, "ONNX Runtime", "16 rows, threads spin"),
        Ceiling("short-16", 1, 500.0, 5000.0, "ONNX Runtime", "16 rows, threads spin"),
    ],
    peak_gflops={"float32": 100.0, "bfloat16": 212.4},
    rss_mib={"conch": {"gateway": 99.5}},
    growth=[Growth(requests, {"gateway": 90 + requests / 2000}) for requests in (0, 10_000, 20_000)],
)


def test_ratios_are_of_rounds_over_the_best_other_engine() -> None:
    found = performance.rates(RESULTS.runs)
    assert performance.ratios(found, "short-16", "conch") == [3.0, 5.0]
    assert performance.ratios(found, "short-16", "conch (int8)") == [4.0]
    assert performance.ratios(found, "images", "conch") == []


def test_comparison_gives_medians_and_spread() -> None:
    _, _, short, images = performance.comparison(RESULTS).splitlines()
    assert short == (
        "| short texts, 16 clients | 400 (60.0 ms, 109.0 ms) | 400 (60.0 ms, 109.0 ms) | 100 (60.0 ms, 109.0 ms)"
        " | 50 (60.0 ms, 109.0 ms) | **4.0** (3.0 to 5.0) | **4.0** (4.0 to 4.0) |"
    )
    assert images == "| images, 4 clients | 40 (60.0 ms, 109.0 ms) | - | - | - | - | - |"


def test_goals_are_ratios_of_the_same_rounds() -> None:
    over_bound = "throughput over ONNX Runtime in process: short texts, 16 clients"
    assert performance.goals(RESULTS).splitlines()[2:] == [
        "| throughput over infinity-emb's best engine: lowest of the 6 | 4.00 | 4.00 |",
        f"| {over_bound} | **0.88** (0.75 to 1.00) | **1.00** (1.00 to 1.00) |",
        "| p99 over the lowest of infinity-emb: short texts, 16 clients | 1.00 | 1.00 |",
        "| gateway's CPU time per request: short texts, 16 clients | 0.40 ms | 0.38 ms |",
    ]


def test_goals_have_a_mean_where_all_text_workloads_were_measured() -> None:
    names = performance.TEXT_WORKLOADS
    runs = [
        run(name, server, 0, requests)
        for place, name in enumerate(names)
        for server, requests in (("conch", 100 * 2**place), ("infinity (torch)", 100))
    ]
    lines = performance.goals(replace(RESULTS, workloads={name: name for name in names}, runs=runs, ceilings=[]))
    assert "geometric mean of 6 text workloads | **5.66** | - |" in lines
    assert "lowest of the 6 | 1.00 | - |" in lines
    assert "with the documents" not in lines


def test_a_single_row_is_compared_with_the_engine_after_a_pause() -> None:
    alone = [Ceiling("short-1", 0, 800.0, 8000.0, row_ms=milliseconds) for milliseconds in (20.0, 30.0, 40.0)]
    runs = [run("short-1", "conch", 0, 10, clients=1)]
    found = performance.goals(replace(RESULTS, runs=runs, ceilings=alone, workloads={"short-1": "one"}))
    assert "| p50 over the engine's own time after a pause: one | 2.00 (60.0 ms, 30.0 ms) | - |" in found


def test_ratios_are_to_infinity_whatever_else_was_measured() -> None:
    runs = [*RESULTS.runs, run("short-16", "llama.cpp", 0, 5000)]
    found = performance.comparison(replace(RESULTS, runs=runs, cosines={"llama.cpp": 0.9999}))
    assert "**4.0** (3.0 to 5.0)" in found
    assert "llama.cpp: items/s (p50, p99)" in found
    assert found.endswith("The lowest cosine of a text's vector with Conch's: llama.cpp 0.9999.\n")
    assert "64 slots" in found
    assert "64 slots" not in performance.comparison(RESULTS)


def test_batches_are_told_by_what_triton_counted() -> None:
    assert "| short texts, 16 clients | 4.0 | 72 | 5.0% |" in performance.batches(RESULTS)


def test_costs_are_told_per_request_and_per_item() -> None:
    results = cost.Results({}, [cost.Cost("texts, base64", 64, 3.2)])
    assert performance.gateway_costs(results).splitlines()[2:] == ["| texts, base64 | 64 | 3.20 ms | 0.050 ms |"]


def test_cache_is_compared_with_none_round_by_round() -> None:
    def measured(name: str, number: int, per_second: float, cpu_ms: float) -> cache.Run:
        return cache.Run(cache.ZIPF, name, number, per_second, 8.0, 20.0, cpu_ms, hit_rate=0.75 * (name != cache.OFF))

    runs = [measured(cache.OFF, number, 100 * number, 0.5) for number in (1, 2, 3)]
    runs += [measured(cache.ALL, number, 400, 0.25 * number) for number in (1, 2, 3)]
    about: dict[str, str | int | float] = {"date": "2026-11-30", "cores": 2, "cpu": "EPYC"}
    costs = [cache.Cost(18, 9.6, 4.2)]
    _, _, off, on, _, cost_of_it, _, about_it = performance.cached(
        cache.Results(about, 16, 2048, 1.0, {cache.OFF: 0, cache.ALL: 2**20}, costs, runs)
    ).splitlines()
    assert off == "| zipf | off | 0% | 200 | 8.0 ms | 20.0 ms | 0.50 ms |"
    assert on == (
        "| zipf | for all texts | 75% | 400 (**2.00**, 1.33 to 4.00) | 8.0 ms | 20.0 ms"
        " | 0.50 ms (**1.00**, 0.50 to 1.50) |"
    )
    assert "10 us for a text of 18 tokens that takes the place of another, 4 us for one that is found." in cost_of_it
    assert about_it == "Caches: for all texts 1.0 MiB. 2026-11-30, 2 cores of an EPYC."


def test_memory_is_told_with_its_slope() -> None:
    assert "| conch | gateway | 100 MiB |" in performance.memory(RESULTS)
    assert "gateway +0.50." in performance.memory(RESULTS)


def test_ceiling_says_what_part_of_the_engine_is_used() -> None:
    line = "| short texts, 16 clients | 800 | 8,000 | 50% | 450 | 16 rows, threads spin | 2.00 |"
    assert line in performance.ceilings(RESULTS)
    alone = performance.ceilings(replace(RESULTS, ceilings=RESULTS.ceilings[:1]))
    assert "| short texts, 16 clients | 800 | 8,000 | 50% |\n" in alone
    assert "ONNX" not in alone
    assert "21.2 MFLOP" in performance.ceilings(RESULTS)
    assert "10,003 tokens/s" in performance.ceilings(RESULTS)


def test_pictures_are_the_same_whenever_they_are_made(tmp_path: Path) -> None:
    made = []
    for _ in range(2):
        performance.throughput_plot(RESULTS, tmp_path)
        performance.latency_plot(RESULTS, tmp_path)
        performance.padding_plot(RESULTS, tmp_path)
        made.append({file.name: file.read_bytes() for file in tmp_path.iterdir()})
    assert set(made[0]) == {"throughput.svg", "latency.svg", "padding.svg"}
    assert made[0] == made[1]
