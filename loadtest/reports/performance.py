"""`python -m loadtest.reports.performance`: writes the figures and plots of docs/performance.md from stored results."""

import itertools
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import msgspec

from loadtest.experiments import cache, cost, perf, stages, workers
from loadtest.reports import gpu, growth, page, vision
from loadtest.reports.figures import COLOURS, by_server, median, rate, save
from loadtest.tools import benchmark, ceiling, vision_results
from loadtest.tools.benchmark import CONCH, INT8, LLAMA_CPP, ONNX_RUNTIME, Ceiling, Run
from loadtest.tools.perf_analyzer import Perf

PAGE = Path("docs/performance.md")
MODELS = Path("docs/models.md")
PICTURES = Path("docs/performance")
SHORT_WORKLOADS = ("short-1", "short-16", "short-64")
TEXT_WORKLOADS = (*SHORT_WORKLOADS, "mixed-16", "bulk-64", "bulk-256")
"""The six that goals are set for. "documents-16" came later."""
DOCUMENTS = "documents-16"
LLAMA = """\
[llama.cpp](https://github.com/ggml-org/llama.cpp) is built for this machine's processor, and its own converter wrote
the weights in fp32. Its server runs with `--embeddings --pooling mean`, a thread per core, batches of 512 tokens, and
64 slots of 512 tokens, so that the texts of all clients can share a batch. It is not given the cross-encoder."""
BOUND = """\
"ONNX Runtime alone" is a bound for any server that is built on it: the same rows, also sorted 256 at a time, in process
and in fp32, with a thread per core. An execution has at most as many rows as the workload's clients send at a time. The
batch size, and whether threads spin or sleep while they wait, are the fastest of several. Pooling is left out."""
GOAL_CLIENTS = 16
"""At which tail latencies are compared."""
INFINITY = "infinity"
"""What the names of its engines begin with."""


def main() -> int:
    """Write."""
    results, of_avx2 = (
        msgspec.json.decode(file.read_bytes(), type=benchmark.Results)
        for file in (benchmark.RESULTS, benchmark.AVX2_RESULTS)
    )
    profiled = msgspec.json.decode(stages.RESULTS.read_bytes(), type=stages.Results)
    costs = msgspec.json.decode(cost.RESULTS.read_bytes(), type=cost.Results)
    seeing = msgspec.json.decode(vision_results.RESULTS.read_bytes(), type=vision_results.Results)
    PICTURES.mkdir(exist_ok=True)
    throughput_plot(results, PICTURES)
    latency_plot(results, PICTURES)
    padding_plot(results, PICTURES)
    stages_plot(profiled, PICTURES)
    sections = {
        "machine": machine(results.machine, results.baseline),
        "baseline": comparison(results),
        "goals": goals(results),
        "avx2": f"{machine(of_avx2.machine, of_avx2.baseline)}\n{comparison(of_avx2)}\n{goals(of_avx2)}",
        "ceiling": ceilings(results),
        "batches": batches(results),
        "stages": where_time_goes(profiled),
        "cost": gateway_costs(costs),
        "cache": cached(msgspec.json.decode(cache.RESULTS.read_bytes(), type=cache.Results)),
        "memory": memory(results),
        "growth": growth.section(PICTURES),
        "workers": several_workers(msgspec.json.decode(workers.RESULTS.read_bytes(), type=workers.Results)),
        "vision": vision.section(seeing),
        "gpu": gpu.section(),
    }
    if perf.RESULTS.exists():
        sections["perf"] = analyser(msgspec.json.decode(perf.RESULTS.read_bytes(), type=perf.Results))
    page.fill(PAGE, sections)
    page.fill(MODELS, {"vision": vision.measured(seeing)})
    return 0


def machine(about: Mapping[str, str | int | float], baseline: Mapping[str, str]) -> str:
    """One paragraph."""
    versions = ", ".join(f"{name} {about[name]}" for name in ("openvino", "nvidia-pytriton", "uvicorn", "tokenizers"))
    others = ", ".join(f"{name} {version}" for name, version in baseline.items())
    return (
        f"{about['date']}, {about['cores']} cores of an {about['cpu']} ({about['features']}),"
        f" {about['memory_gib']} GiB, Linux {about['kernel']}, Python {about['python']}; {versions}."
        f" Compared: {others}.\n"
    )


def rates(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    """Runs by workload and server, in the order of rounds."""
    found: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.round):
        found[run.workload, run.server].append(run)
    return found


def ratios(found: Mapping[tuple[str, str], Sequence[Run]], workload: str, server: str) -> list[float]:
    """Conch over the best engine of infinity-emb, round by round; empty where there is none."""
    own = found.get((workload, server), [])
    best = max(infinities(found, workload), key=lambda runs: median(runs, rate), default=[])
    return [rate(one) / rate(other) for one, other in zip(own, best, strict=False)]


def infinities(found: Mapping[tuple[str, str], Sequence[Run]], workload: str) -> list[Sequence[Run]]:
    """The runs of each engine of infinity-emb."""
    return [runs for (name, server), runs in found.items() if name == workload and server.startswith(INFINITY)]


def bounds(results: benchmark.Results, workload: str, engine: str) -> list[Ceiling]:
    """What an engine did in process, in the order of rounds."""
    found = [one for one in results.ceilings if (one.workload, one.engine) == (workload, engine)]
    return sorted(found, key=lambda one: one.round)


def over_bound(results: benchmark.Results, workload: str, server: str) -> list[float]:
    """A server over ONNX Runtime in process, round by round; empty where it was not measured."""
    runs = rates(results.runs).get((workload, server), [])
    bound = bounds(results, workload, ONNX_RUNTIME)
    return [rate(run) / one.items_per_second for run, one in zip(runs, bound, strict=False)]


def comparison(results: benchmark.Results) -> str:
    """A row a workload."""
    found = rates(results.runs)
    servers = list(dict.fromkeys(run.server for run in results.runs))
    ours = [server for server in servers if server in (CONCH, INT8)]
    columns = [f"{server}: items/s (p50, p99)" for server in servers] + [f"ratio of {server}" for server in ours]
    lines = [f"| workload | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for name, about in results.workloads.items():
        cells = [about]
        for server in servers:
            runs = found.get((name, server), [])
            cells.append(
                f"{median(runs, rate):,.0f} ({median(runs, _at('p50')):,.1f} ms, {median(runs, _at('p99')):,.1f} ms)"
                if runs
                else "-"
            )
        for server in ours:
            over = ratios(found, name, server)
            cells.append(f"**{statistics.median(over):.1f}** ({min(over):.1f} to {max(over):.1f})" if over else "-")
        lines.append(f"| {' | '.join(cells)} |")
    if LLAMA_CPP in servers:
        lines += ["", LLAMA]
    if results.cosines:
        cosines = ", ".join(f"{name} {cosine:.4f}" for name, cosine in results.cosines.items())
        lines += ["", f"The lowest cosine of a text's vector with Conch's: {cosines}."]
    return "\n".join(lines) + "\n"


def goals(results: benchmark.Results) -> str:
    """The ratios that goals are set for. What was not measured is left out."""
    found = rates(results.runs)
    lines = ["| what | conch | conch (int8) |", "|---|---|---|"]

    def add(what: str, cell: Callable[[str], str]) -> None:
        cells = [cell(server) for server in (CONCH, INT8)]
        if any(cells):
            lines.append(f"| {what} | {' | '.join(one or '-' for one in cells)} |")

    infinity = "throughput over infinity-emb's best engine"
    add(f"{infinity}: geometric mean of {len(TEXT_WORKLOADS)} text workloads", partial(_mean, found, TEXT_WORKLOADS))
    add(f"{infinity}: lowest of the {len(TEXT_WORKLOADS)}", partial(_lowest, found))
    add(f"{infinity}: geometric mean with the documents", partial(_mean, found, (*TEXT_WORKLOADS, DOCUMENTS)))
    for name, about in results.workloads.items():
        add(f"throughput over ONNX Runtime in process: {about}", partial(_over_bound, results, name))
    for name, about in results.workloads.items():
        if any(run.clients == GOAL_CLIENTS and run.workload == name for run in results.runs):
            add(f"p99 over the lowest of infinity-emb: {about}", partial(_over_p99, found, name))
    for name in SHORT_WORKLOADS:
        about = results.workloads.get(name, "")
        add(f"p50 over the engine's own time after a pause: {about}", partial(_over_row, results, name))
        add(f"gateway's CPU time per request: {about}", partial(_gateway_cpu, found, name))
    return "\n".join(lines) + "\n"


def _mean(found: Mapping[tuple[str, str], Sequence[Run]], workloads: Sequence[str], server: str) -> str:
    means = [statistics.median(over) for name in workloads if (over := ratios(found, name, server))]
    return f"**{statistics.geometric_mean(means):.2f}**" if len(means) == len(workloads) else ""


def _lowest(found: Mapping[tuple[str, str], Sequence[Run]], server: str) -> str:
    means = [statistics.median(over) for name in TEXT_WORKLOADS if (over := ratios(found, name, server))]
    return f"{min(means):.2f}" if means else ""


def _over_bound(results: benchmark.Results, workload: str, server: str) -> str:
    over = over_bound(results, workload, server)
    return f"**{statistics.median(over):.2f}** ({min(over):.2f} to {max(over):.2f})" if over else ""


def _over_p99(found: Mapping[tuple[str, str], Sequence[Run]], workload: str, server: str) -> str:
    others = [median(runs, _at("p99")) for runs in infinities(found, workload)]
    own = found.get((workload, server))
    return f"{median(own, _at('p99')) / min(others):.2f}" if own and others else ""


def _over_row(results: benchmark.Results, workload: str, server: str) -> str:
    """Of the default precision: the engine is not measured in int8."""
    alone = [one.row_ms for one in bounds(results, workload, CONCH) if one.row_ms is not None]
    own = rates(results.runs).get((workload, server))
    if not own or not alone or server != CONCH:
        return ""
    served, engine = median(own, _at("p50")), statistics.median(alone)
    return f"{served / engine:.2f} ({served:.1f} ms, {engine:.1f} ms)"


def _gateway_cpu(found: Mapping[tuple[str, str], Sequence[Run]], workload: str, server: str) -> str:
    own = [run for run in found.get((workload, server), []) if "gateway" in run.cpu_s]
    return f"{median(own, lambda run: 1000 * run.cpu_s['gateway'] / run.requests):.2f} ms" if own else ""


def batches(results: benchmark.Results) -> str:
    """The rows per execution, and the share of the work that is padding."""
    lines = ["| workload | rows per execution | tokens per execution | work on padding |", "|---|---|---|---|"]
    for (name, server), runs in rates(results.runs).items():
        if server == CONCH:
            rows, tokens = (median(runs, _each(count)) for count in ("rows", "tokens"))
            lines.append(f"| {results.workloads[name]} | {rows:.1f} | {tokens:,.0f} | {median(runs, padding):.1%} |")
    return "\n".join(lines) + "\n"


def padding(run: Run) -> float:
    """Work on padding, in proportion to tokens."""
    return run.work["padding"] / max(1, run.work["tokens"])


def _each(count: str) -> Callable[[Run], float]:
    return lambda run: run.work[count] / max(1, run.work["executions"])


def ceilings(results: benchmark.Results) -> str:
    """The engine's best throughput, the share that each workload reaches, and ONNX Runtime's where it was measured."""
    found = rates(results.runs)
    peers = any(one.engine == ONNX_RUNTIME for one in results.ceilings)
    columns = ["workload", "engine alone: items/s", "tokens/s", "Conch reaches"]
    columns += ["ONNX Runtime alone: items/s", "fastest setting", "engine over ONNX Runtime"] if peers else []
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, about in results.workloads.items():
        best = bounds(results, name, CONCH)
        if best:
            items = statistics.median(one.items_per_second for one in best)
            tokens = statistics.median(one.tokens_per_second for one in best)
            share = median(found[name, CONCH], rate) / items
            cells = [about, f"{items:,.0f}", f"{tokens:,.0f}", f"{share:.0%}"]
            other = bounds(results, name, ONNX_RUNTIME)
            over = [one.items_per_second / its.items_per_second for one, its in zip(best, other, strict=False)]
            if over:
                theirs = statistics.median(one.items_per_second for one in other)
                cells += [f"{theirs:,.0f}", other[0].setting, f"{statistics.median(over):.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", BOUND] if peers else []
    peak = results.peak_gflops
    most = peak["bfloat16"] * 1e9 / (2 * ceiling.PRODUCTS_A_TOKEN)
    summary = (
        f"Large matrix products reach {peak['bfloat16']:,.0f} GFLOP/s in bf16 and {peak['float32']:,.0f} in fp32 here."
        f" Each token takes {2 * ceiling.PRODUCTS_A_TOKEN / 1e6:.1f} MFLOP in the products with weights alone:"
        f" {most:,.0f} tokens/s if nothing else took time."
    )
    return "\n".join([*lines, "", summary]) + "\n"


def analyser(results: perf.Results) -> str:
    """perf_analyzer's lines, and what the gateway costs."""
    lines = [
        "| target | rows | load | req/s | p50 | p99 | in Triton's queue | inference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    grouped: dict[tuple[str, str, str], list[Perf]] = defaultdict(list)
    for run in results.runs:
        grouped[run.target, run.workload, run.load].append(run)
    for (target, workload, load), runs in grouped.items():
        middle = sorted(runs, key=lambda run: run.requests_per_second)[len(runs) // 2]
        inside = [f"{middle.server_ms[stage]:.1f} ms" if middle.server_ms else "-" for stage in ("queue", "infer")]
        lines.append(
            f"| {target} | {workload} | {load} | {middle.requests_per_second:,.1f} | {middle.latency_ms['p50']:.1f} ms"
            f" | {middle.latency_ms['p99']:.1f} ms | {' | '.join(inside)} |"
        )
    pairs: dict[int, dict[str, float]] = defaultdict(dict)
    for run in results.runs:
        if run.workload == "documents-16":
            pairs[run.round][run.target] = run.requests_per_second
    shares = [pair["gateway"] / pair["triton"] for pair in pairs.values() if len(pair) == 2]
    lines += [
        "",
        f"With `documents-16`, the gateway reaches **{statistics.median(shares):.0%}** of Triton's throughput.",
    ]
    return "\n".join(lines) + "\n"


def where_time_goes(results: stages.Results) -> str:
    """CPU time of a request by process and stage."""
    lines = ["| process | stage | CPU per request |", "|---|---|---|"]
    lines += [f"| {part.process} | {part.stage} | {part.cpu_ms:.2f} ms |" for part in results.parts]
    total = sum(part.cpu_ms for part in results.parts)
    return "\n".join([*lines, f"| all | | {total:.2f} ms |"]) + "\n"


def several_workers(results: workers.Results) -> str:
    """What a core of the gateway does by its number of workers, and how connections spread."""
    lines = [
        "| workload | workers | requests/s here | CPU per request | per second of CPU | ratio to one worker |",
        "|---|---|---|---|---|---|",
    ]
    for workload, texts in dict.fromkeys((run.workload, run.texts_per_request) for run in results.runs):
        _, alone_ms = workers.median(results.runs, 1, workload)
        for count in sorted({run.workers for run in results.runs}):
            per_second, cpu_ms = workers.median(results.runs, count, workload)
            lines.append(
                f"| {workload} | {count} | {per_second:,.0f} | {cpu_ms:.2f} ms | {1000 / cpu_ms:,.0f} requests,"
                f" {1000 * texts / cpu_ms:,.0f} texts | {alone_ms / cpu_ms:.2f} |"
            )
    lines += ["", "| workers | connections | connections of each worker |", "|---|---|---|"]
    lines += [f"| {one.workers} | {one.connections} | {', '.join(map(str, one.of_each))} |" for one in results.spreads]
    lines += [
        "",
        "| workers | most requests/s, p50, p99 | under overload: 200 responses/s, p50, p99 | requests/s offered |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {count} | {one.peak_per_second:,.0f}, {one.peak_p50_ms:,.0f} ms, {one.peak_p99_ms:,.0f} ms"
        f" | {one.goodput_per_second:,.0f}, {one.accepted_p50_ms:,.0f} ms, {one.accepted_p99_ms:,.0f} ms"
        f" | {one.offered_per_second:,.0f} |"
        for count, one in results.overloads.items()
    ]
    rss = ", ".join(f"{mib:,.0f} MiB with {count}" for count, mib in sorted(results.rss_mib.items()))
    about = results.machine
    return "\n".join(lines) + f"\n\nMemory by workers: {rss}. {about['date']}, {about['cores']} cores.\n"


def gateway_costs(results: cost.Results) -> str:
    """CPU time of the gateway by kind of request."""
    lines = ["| request | items | CPU per request | CPU per item |", "|---|---|---|---|"]
    lines += [
        f"| {one.kind} | {one.items} | {one.cpu_ms:.2f} ms | {one.cpu_ms / one.items:.3f} ms |" for one in results.costs
    ]
    return "\n".join(lines) + "\n"


def cached(results: cache.Results) -> str:
    """What a cache saves and costs, by the size of the cache and the workload."""
    names = {cache.OFF: "off", cache.ALL: "for all texts", cache.QUARTER: "for a quarter"}
    lines = [
        "| texts | cache | hits | requests/s (ratio) | p50 | p99 | CPU of the gateway per request (ratio) |",
        "|---|---|---|---|---|---|---|",
    ]
    workloads = dict.fromkeys(run.workload for run in results.runs)
    for workload, name in itertools.product(workloads, results.caches):
        runs = [run for run in results.runs if (run.workload, run.cache) == (workload, name)]
        rate, p50, p99, cpu, hits = (
            statistics.median(getattr(run, of) for run in runs)
            for of in ("per_second", "p50_ms", "p99_ms", "cpu_ms", "hit_rate")
        )
        over = ["", ""]
        if name != cache.OFF:
            ratios = [cache.ratio(results.runs, workload, name, of) for of in ("per_second", "cpu_ms")]
            over = [f" (**{middle:.2f}**, {least:.2f} to {most:.2f})" for middle, least, most in ratios]
        lines.append(
            f"| {workload} | {names[name]} | {hits:.0%} | {rate:,.0f}{over[0]} | {p50:.1f} ms | {p99:.1f} ms"
            f" | {cpu:.2f} ms{over[1]} |"
        )
    costs = "; ".join(
        f"{one.miss_us:.0f} us for a text of {one.tokens} tokens that takes the place of another,"
        f" {one.hit_us:.0f} us for one that is found"
        for one in results.costs
    )
    sizes = ", ".join(f"{names[name]} {size / 2**20:.1f} MiB" for name, size in results.caches.items() if size)
    about = results.machine
    lines += ["", f"By itself, the cache takes so much CPU time: {costs}."]
    return "\n".join(lines) + f"\n\nCaches: {sizes}. {about['date']}, {about['cores']} cores of an {about['cpu']}.\n"


def memory(results: benchmark.Results) -> str:
    """Resident memory at the end, and how it grew."""
    lines = ["| server | process | resident |", "|---|---|---|"]
    lines += [
        f"| {server} | {process} | {mib:,.0f} MiB |"
        for server, processes in results.rss_mib.items()
        for process, mib in processes.items()
    ]
    half = [growth for growth in results.growth if growth.requests >= results.growth[-1].requests / 2]
    if len(half) > 1:
        slopes = {
            process: statistics.linear_regression(
                [growth.requests / 1000 for growth in half], [growth.rss_mib[process] for growth in half]
            ).slope
            for process in half[0].rss_mib
        }
        growths = ", ".join(f"{process} {slope:+.2f}" for process, slope in slopes.items())
        lines += [
            "",
            f"Growth in MiB per 1,000 requests, in the last half of {half[-1].requests:,} of mixed length: {growths}.",
        ]
    return "\n".join(lines) + "\n"


def throughput_plot(results: benchmark.Results, folder: Path) -> None:
    """Items a second against clients."""
    names = list(dict.fromkeys(run.workload for run in results.sweep))
    figure, axes = plt.subplots(1, len(names), figsize=(9, 3.2), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        for server, runs in by_server(run for run in results.sweep if run.workload == name).items():
            axis.plot(
                [run.clients for run in runs], [rate(run) for run in runs], "o-", label=server, color=COLOURS[server]
            )
        for engine, label, colour in (
            (CONCH, "engine alone", "engine"),
            (ONNX_RUNTIME, "ONNX Runtime alone", ONNX_RUNTIME),
        ):
            best = [one.items_per_second for one in bounds(results, name, engine)]
            if best:
                axis.axhline(statistics.median(best), ls=":", color=COLOURS[colour], label=label)
        axis.set(
            xscale="log", xlabel="clients", ylabel="texts per second", title=results.workloads[name].rpartition(",")[0]
        )
        axis.set_xticks(benchmark.SWEEP, [str(clients) for clients in benchmark.SWEEP])
        axis.minorticks_off()
        axis.set_ylim(0)
    axes[0][0].legend(frameon=False)
    save(figure, folder / "throughput.svg")


def latency_plot(results: benchmark.Results, folder: Path) -> None:
    """Percentiles of latency at 16 clients."""
    names = [name for name in ("short-16", "mixed-16") if name in results.workloads]
    figure, axes = plt.subplots(1, len(names), figsize=(9, 3.2), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        for server, runs in by_server(run for run in results.runs if run.workload == name).items():
            places = [place for place in runs[0].latency_ms if float(place[1:]) >= 1]
            values = [statistics.median(run.latency_ms[place] for run in runs) for place in places]
            axis.plot([float(place[1:]) for place in places], values, label=server, color=COLOURS[server])
        axis.set(xlabel="percentile", ylabel="ms", yscale="log", title=results.workloads[name])
    axes[0][0].legend(frameon=False)
    save(figure, folder / "latency.svg")


def padding_plot(results: benchmark.Results, folder: Path) -> None:
    """Work on padding by workload."""
    found = {name: runs for (name, server), runs in rates(results.runs).items() if server == CONCH}
    figure, axis = plt.subplots(figsize=(9, 0.4 + 0.3 * len(found)))
    axis.barh(
        [results.workloads[name] for name in found],
        [100 * median(runs, padding) for runs in found.values()],
        color=COLOURS[CONCH],
    )
    axis.invert_yaxis()
    axis.set(xlabel="work on padding, % of that on tokens")
    save(figure, folder / "padding.svg")


def stages_plot(results: stages.Results, folder: Path) -> None:
    """CPU time of a request, stacked."""
    figure, axis = plt.subplots(figsize=(9, 1.6))
    left = 0.0
    colours = plt.get_cmap("tab20").colors  # type: ignore[attr-defined]
    for part, colour in zip(results.parts, colours, strict=False):
        axis.barh(0, part.cpu_ms, left=left, label=f"{part.process}: {part.stage}", color=colour)
        left += part.cpu_ms
    axis.set(yticks=[], xlabel="ms of CPU per request")
    axis.legend(frameon=False, ncol=4, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.35))
    save(figure, folder / "stages.svg")


def _at(place: str) -> Callable[[Run], float]:
    return lambda run: run.latency_ms[place]


if __name__ == "__main__":
    sys.exit(main())
