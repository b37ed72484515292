"""`python -m loadtest.reports.gpu`: writes the section on GPUs of docs/performance.md."""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

import msgspec

from loadtest.experiments.gpu.results import RESULTS, Exact, Results, Served, Throughput
from loadtest.reports import page, vision

PAGE = Path("docs/performance.md")
NO_RUN = "No run on a GPU is stored yet.\n"
CONCH = "conch"


def main() -> int:
    """Write."""
    page.fill(PAGE, {"gpu": section()})
    return 0


def section(file: Path = RESULTS) -> str:
    """All of it, or that there is no run."""
    if not file.exists():
        return NO_RUN
    return render(msgspec.json.decode(file.read_bytes(), type=Results))


def render(results: Results) -> str:
    """A table for each stage that ran."""
    tables: Sequence[tuple[str, Callable[[Results], Sequence[str]]]] = (
        ("The largest errors of the exported models on this device:", exactness),
        (
            "Texts per second in process, by the number of texts given at once, and tokens per second at the most:",
            rates,
        ),
        ("One text after the other, in process:", latencies),
        ("Long rows, alone and with short ones:", long_rows),
        ("Memory of one row beside the weights:", peaks),
        ("Texts per second next to other engines in process, with the same weights and token ids:", compared),
        ("Models that read texts and images together, in process:", seeing),
        ("Triton over gRPC, by perf_analyzer:", triton),
        ("Servers over HTTP:", served),
    )
    paragraphs = [machine(results.machine)]
    for title, table in tables:
        if lines := table(results):
            paragraphs += [title, "\n".join(lines)]
    left_out = [f"- {what}: {why}" for stage in results.left_out.values() for what, why in stage.items()]
    if left_out:
        paragraphs += ["Not measured, or not as meant:", "\n".join(left_out)]
    return "\n\n".join(paragraphs) + "\n"


def machine(about: Mapping[str, str | int | float]) -> str:
    """One paragraph."""
    software = ("cuda", "driver", "torch", "transformers", "sentence-transformers", "onnxruntime-gpu", "onnxruntime")
    versions = ", ".join(f"{name} {about[name]}" for name in software if name in about)
    return (
        f"{about['date']}, {about['gpu']} ({about.get('gpu_memory_gib', '-')} GiB), {about['cores']} cores of an"
        f" {about['cpu']}, Python {about['python']}; {versions}."
    )


def exactness(results: Results) -> Sequence[str]:
    """The largest error by measure and precision, of the families and of the measured entries."""
    largest: dict[tuple[str, str], list[Exact]] = defaultdict(list)
    for one in (*results.families, *results.verified):
        largest[one.measure, one.precision].append(one)
    lines = []
    for (measure, precision), found in largest.items():
        worst = max(found, key=lambda one: one.worst / one.limit)
        inside = sum(one.worst <= one.limit for one in found)
        lines.append(
            f"| {measure} | {precision} | {inside} of {len(found)} | {worst.worst:.0e} | {worst.limit:g}"
            f" | {worst.label}, {worst.role} |"
        )
    return _table(("error", "precision", "within tolerance", "largest", "tolerance", "of"), lines)


def rates(results: Results) -> Sequence[str]:
    """A row for each model and length, a column for each batch."""
    batches = list(dict.fromkeys(one.batch for one in results.throughput))
    found: dict[tuple[str, str], dict[int, Throughput]] = defaultdict(dict)
    for one in results.throughput:
        found[one.model, one.lengths][one.batch] = one
    lines = []
    for (model, lengths), by_batch in found.items():
        cells = [f"{_rate(by_batch[batch]):,.0f}" if batch in by_batch else "-" for batch in batches]
        tokens = max(_rate(one) * one.tokens_per_text for one in by_batch.values())
        lines.append(f"| {model} | {lengths} | {' | '.join(cells)} | {tokens:,.0f} |")
    return _table(("model", "tokens per text", *map(str, batches), "tokens/s"), lines)


def latencies(results: Results) -> Sequence[str]:
    """Median and 99th percentile."""
    lines = [
        f"| {one.model} | {one.tokens} | {one.median_ms:.2f} ms | {one.p99_ms:.2f} ms |" for one in results.latency
    ]
    return _table(("model", "tokens", "median", "p99"), lines)


def long_rows(results: Results) -> Sequence[str]:
    """The time of a batch, and whether its short rows change the long one."""
    lines = [
        f"| {one.model} | {one.tokens:,} | {one.short_rows} | {one.ms:.1f} ms | {one.error:.0e} |"
        for one in results.long_rows
    ]
    return _table(("model", "tokens", "short rows beside it", "time", "1 - cosine with the row alone"), lines)


def peaks(results: Results) -> Sequence[str]:
    """Memory against length: what grows linearly has the same memory per token."""
    lines = [
        f"| {one.model} | {one.tokens:,} | {one.mib:,.0f} MiB | {1024 * one.mib / one.tokens:.1f} KiB |"
        for one in results.peaks
    ]
    return _table(("model", "tokens", "memory", "per token"), lines)


def compared(results: Results) -> Sequence[str]:
    """A row for each kind of batch, a column for each engine, and how many times as fast as the best other."""
    engines = list(dict.fromkeys(one.engine for one in results.compared))
    found: dict[tuple[str, str, int], dict[str, Throughput]] = defaultdict(dict)
    for one in results.compared:
        found[one.model, one.lengths, one.batch][one.engine] = one
    lines = []
    for (model, lengths, batch), by_engine in found.items():
        cells = [f"{_rate(by_engine[engine]):,.0f}" if engine in by_engine else "-" for engine in engines]
        best = max((_rate(one) for engine, one in by_engine.items() if engine != CONCH), default=0)
        times = f"**{_rate(by_engine[CONCH]) / best:.1f}**" if best else "-"
        lines.append(f"| {model} | {lengths} | {batch} | {' | '.join(cells)} | {times} |")
    return _table(("model", "tokens per text", "texts at once", *engines, "times the best other"), lines)


def seeing(results: Results) -> Sequence[str]:
    """For each model its layers, the memory of a pack, and a table of speeds."""
    lines: list[str] = []
    for one in results.vision:
        memory = "".join(f", {mib:,.0f} MiB for a pack of {items}" for items, mib in one.mib.items())
        layers = f"{one.layers[0]} text and {one.layers[1]} vision layers"
        lines += ["", f"{one.model}: {layers}, {one.weights.all / 1e6:,.0f} million weights{memory}.", ""]
        lines += vision.speeds(one)
    return lines[1:]


def triton(results: Results) -> Sequence[str]:
    """A row for each load."""
    lines = [
        f"| {one.workload} | {one.load} | {one.requests_per_second:,.0f} | {one.latency_ms['p50']:.2f} ms"
        f" | {one.latency_ms['p99']:.2f} ms | {one.server_ms.get('queue', 0):.2f} ms"
        f" | {one.server_ms.get('infer', 0):.2f} ms |"
        for one in results.triton
    ]
    return _table(("rows", "load", "texts/s", "p50", "p99", "in Triton's queue", "inference"), lines)


def served(results: Results) -> Sequence[str]:
    """Medians of rounds."""
    found: dict[tuple[str, int, int], list[Served]] = defaultdict(list)
    for one in results.served:
        found[one.server, one.texts_per_request, one.clients].append(one)
    lines = [
        f"| {server} | {texts} | {clients} | {median(one.texts_per_second for one in runs):,.0f}"
        f" | {median(one.median_ms for one in runs):.1f} ms | {median(one.p99_ms for one in runs):.1f} ms |"
        for (server, texts, clients), runs in found.items()
    ]
    return _table(("server", "texts per request", "clients", "texts/s", "p50", "p99"), lines)


def _rate(one: Throughput) -> float:
    return median(one.texts_per_second)


def _table(head: Iterable[str], lines: Sequence[str]) -> Sequence[str]:
    """The lines of a table, none if it has no rows."""
    columns = list(head)
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *lines] if lines else []


if __name__ == "__main__":
    sys.exit(main())
