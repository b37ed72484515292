"""The section of docs/performance.md on how cost grows: measured, and simulated for more cores."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import msgspec
import numpy as np
from matplotlib.axes import Axes

from loadtest.reports.figures import COLOURS, by_server, rate, save
from loadtest.tools import scaling
from loadtest.tools.benchmark import Run
from loadtest.tools.growth import RESULTS, Results
from loadtest.tools.workloads import MIXED_MEDIAN, SEED, SHORT_WORDS, mixed_lengths

CORES = (1, 2, 4, 8, 16, 32, 64)
"""That are simulated."""
TOKENS_A_WORD = 1.3
"""About, in English."""
WAITING: Mapping[str, Sequence[int]] = {
    "1 short text": [round(SHORT_WORDS * TOKENS_A_WORD)],
    "16 short texts": [round(SHORT_WORDS * TOKENS_A_WORD)] * 16,
    "64 short texts": [round(SHORT_WORDS * TOKENS_A_WORD)] * 64,
    f"256 texts, median {MIXED_MEDIAN} words": (
        (mixed_lengths(np.random.default_rng(SEED), 256) * TOKENS_A_WORD).astype(int).tolist()
    ),
}
"""Tokens of the rows that wait at the same time."""
PLOTTED = ("1 short text", "16 short texts", "64 short texts")


def section(folder: Path) -> str:
    """Everything that was measured, with its plots; nothing if nothing was."""
    if not RESULTS.exists():
        return ""
    return write(msgspec.json.decode(RESULTS.read_bytes(), type=Results), folder)


def write(results: Results, folder: Path) -> str:
    """The section's text. Plots are written to a folder. Parts that were not measured are left out."""
    about = results.machine
    machine = f"{about['date']}, {about['cores']} cores of an {about['cpu']} ({about['features']})"
    parts = [
        "## How cost grows\n",
        f"`python -m loadtest.experiments.growth` measures what this section shows. {machine}.\n",
    ]
    if results.batches or results.lengths:
        requests_plot(results, folder)
        parts.append("![Texts per second by texts per request, and by tokens per text](performance/growth.svg)\n")
    if results.packs:
        model = scaling.fit(results.packs)
        cores_plot(results, model, folder)
        parts += [
            "### Cores\n",
            "![Texts per second by cores](performance/cores.svg)\n",
            by_cores(results, model),
            STREAMS,
            streams(model),
            packs(results.packs, model),
        ]
    if results.models_mib or results.rows_mib:
        memory_plot(results, folder)
        parts.append("![Memory by models, and by texts per request](performance/growth-memory.svg)\n")
    return "\n".join(parts)


STREAMS = """\
Simulated: how the engine uses cores best, by what waits at the same time. A *stream* computes one pack after another
on threads of its own. A single text is computed by as many threads as it gains from. As soon as enough texts wait,
packs run side by side, on one thread each. This is the engine alone; the table above is of a whole server.
"""


def streams(model: scaling.Model) -> str:
    """The fastest plan by cores and by what waits."""
    cores = [count for count in CORES if count > 1]
    lines = [f"| waiting | {' | '.join(f'{count} cores' for count in cores)} |", "|---" * (len(cores) + 1) + "|"]
    for name, lengths in WAITING.items():
        alone = scaling.best(model, lengths, 1).ms
        plans = [scaling.best(model, lengths, count) for count in cores]
        cells = [f"{plan.streams} x {plan.threads}: {alone / plan.ms:.1f}" for plan in plans]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "Cells are streams x threads of each, and the speed-up."]) + "\n"


def by_cores(results: Results, model: scaling.Model) -> str:
    """Measured throughput, and what the model makes of that of one core."""
    measured = sorted(results.cores)
    if 1 not in measured:
        return ""
    simulated = [count for count in CORES if count > 1]
    columns = [str(count) for count in measured] + [f"{count}, simulated" for count in simulated]
    lines = [f"| texts/s by cores | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, about in results.workloads.items():
        rates = [_median(results.cores[count], name) for count in measured]
        alone, share = rates[0], engine_share(results.cores[1], name)
        rates += [scaling.served(alone, share, model, count) for count in simulated]
        lines.append(f"| {about} | {' | '.join(f'{one:,.0f}' for one in rates)} |")
    note = (
        "Clients use the same cores. The simulation starts from the throughput of one core, and adds the contention of"
        " packs side by side. It assumes that all cores are busy: enough work waits, and `GATEWAY_WORKERS` is 1"
        " for every 4 cores."
    )
    return "\n".join([*lines, "", note]) + "\n"


def packs(measured: Sequence[scaling.Pack], model: scaling.Model) -> str:
    """What the model is fitted to, and its error."""
    settings = sorted({(pack.streams, pack.threads) for pack in measured}, key=lambda one: (one[0] * one[1], one))
    names = [f"{streams} x {threads}" for streams, threads in settings]
    lines = [f"| rows x tokens | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for shape in dict.fromkeys((pack.rows, pack.tokens) for pack in measured):
        own = {(pack.streams, pack.threads): pack for pack in measured if (pack.rows, pack.tokens) == shape}
        cells = [
            f"{own[one].ms:.2f} ms ({scaling.error(model, own[one]):+.0%})" if one in own else "-" for one in settings
        ]
        lines.append(f"| {shape[0]} x {shape[1]} | {' | '.join(cells)} |")
    worst = max(abs(scaling.error(model, pack)) for pack in measured)
    note = (
        "Measured times of packs by streams x threads, one pack on each stream, and how far the model is off."
        f" It is fitted to these, and at most {worst:.0%} off. On one thread a pack takes {model.pack_ms:.2f} ms,"
        f" {1000 * model.token_ms:.1f} µs per token and {1e6 * model.cell_ms:.0f} ns per cell of attention. Threads"
        f" do not share {model.serial:.0%} of a pack's work, and wait {model.barrier_ms:.2f} ms each time that they"
        f" double. A pack slows each one beside it by {model.contention:.1%}. Formulas and their sources are in"
        " [scaling.py](../loadtest/tools/scaling.py)."
    )
    return "\n".join([*lines, "", note]) + "\n"


def engine_share(runs: Sequence[Run], workload: str) -> float:
    """The model process's share of the CPU time."""
    shares = [run.cpu_s.get("model", 0) / sum(run.cpu_s.values()) for run in runs if run.workload == workload]
    return statistics.median(shares)


def requests_plot(results: Results, folder: Path) -> None:
    """Texts per second by batch, and tokens per second by length."""
    figure, (batch, length) = plt.subplots(1, 2, figsize=(9, 3.2), gridspec_kw={"wspace": 0.3})
    for server, runs in by_server(results.batches).items():
        points = _medians([(run.items / run.requests, rate(run)) for run in runs])
        batch.plot(*points, "o-", label=server, color=COLOURS[server])
    for server, runs in by_server(results.lengths).items():
        tokens = [results.tokens[run.workload] for run in runs]
        points = _medians([(count, rate(run)) for count, run in zip(tokens, runs, strict=True)])
        length.plot(*points, "o-", label=server, color=COLOURS[server])
    batch.set(xscale="log", xlabel="texts per request", ylabel="texts per second")
    length.set(xscale="log", yscale="log", xlabel="tokens per text", ylabel="texts per second")
    for axis in (batch, length):
        ticks = sorted({round(x) for line in axis.get_lines() for x in line.get_xdata()})
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        _without_minor_places(axis)
    batch.set_ylim(0)
    batch.legend(frameon=False)
    save(figure, folder / "growth.svg")


def cores_plot(results: Results, model: scaling.Model, folder: Path) -> None:
    """Texts per second by cores: of the whole server, and of the engine."""
    figure, (server, engine) = plt.subplots(1, 2, figsize=(9, 3.2), gridspec_kw={"wspace": 0.3})
    colours = list(COLOURS.values())
    for (name, about), colour in zip(results.workloads.items(), colours, strict=False):
        measured = _medians(
            [(count, rate(run)) for count, runs in results.cores.items() for run in runs if run.workload == name]
        )
        server.plot(*measured, "o-", color=colour, label=f"{about}, measured")
        if 1 in results.cores:
            share = engine_share(results.cores[1], name)
            values = [scaling.served(measured[1][0], share, model, count) for count in CORES]
            server.plot(CORES, values, ":", color=colour, label=f"{about}, simulated")
    for name, colour in zip(PLOTTED, colours, strict=False):
        lengths = WAITING[name]
        values = [1000 * len(lengths) / scaling.best(model, lengths, count).ms for count in CORES]
        engine.plot(CORES, values, ":", color=colour, label=f"{name} wait, simulated")
    server.set(title="server", ylabel="texts per second")
    engine.set(title="engine alone")
    for axis in (server, engine):
        axis.set(xscale="log", yscale="log", xlabel="cores")
        axis.set_xticks(CORES, [str(count) for count in CORES])
        _without_minor_places(axis)
        axis.legend(frameon=False, fontsize=6)
    save(figure, folder / "cores.svg")


def memory_plot(results: Results, folder: Path) -> None:
    """Conch's memory by models and by rows, stacked by process."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), gridspec_kw={"wspace": 0.3})
    for axis, found, label in zip(
        axes, (results.models_mib, results.rows_mib), ("copies of the model", "texts per request"), strict=True
    ):
        if found:
            counts = sorted(found)
            roles = list(dict.fromkeys(process.split()[0] for count in counts for process in found[count]))
            parts = [[_of_role(found[count], role) for count in counts] for role in roles]
            axis.stackplot(range(len(counts)), parts, labels=roles)
            axis.set_xticks(range(len(counts)), [str(count) for count in counts])
        axis.set(xlabel=label, ylabel="MiB", ylim=0)
    axes[0].legend(frameon=False, loc="upper left")
    save(figure, folder / "growth-memory.svg")


def _without_minor_places(axis: Axes) -> None:
    axis.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)


def _of_role(found: Mapping[str, float], role: str) -> float:
    return sum(mib for process, mib in found.items() if process.split()[0] == role)


def _median(runs: Sequence[Run], workload: str) -> float:
    return statistics.median(rate(run) for run in runs if run.workload == workload)


def _medians(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Medians of what has the same place, in the order of places."""
    places = sorted({place for place, _ in points})
    return places, [statistics.median(value for at, value in points if at == place) for place in places]
