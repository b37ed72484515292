"""`python -m loadtest.reports.reliability`: writes the figures of docs/reliability.md from stored results."""

import statistics
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec

from loadtest.experiments import batches, chaos, hostile, soak
from loadtest.experiments.overload import Overload
from loadtest.reports import page
from loadtest.tools.steady import Case

PAGE = Path("docs/reliability.md")
KINDS = ("correct", "refused", "unreachable", "broken", "wrong", "lost")


def main() -> int:
    """Write."""
    results = msgspec.json.decode(chaos.RESULTS.read_bytes(), type=chaos.Results)
    sections = {"machine": machine(results.machine), "cases": cases(results.cases)}
    if results.overload is not None:
        sections["overload"] = overload(results.overload)
    if hostile.RESULTS.exists():
        sections["hostile"] = attacks(msgspec.json.decode(hostile.RESULTS.read_bytes(), type=hostile.Results))
    if soak.RESULTS.exists():
        sections["soak"] = endurance(msgspec.json.decode(soak.RESULTS.read_bytes(), type=soak.Results))
    if batches.RESULTS.exists():
        sections["batches"] = background(msgspec.json.decode(batches.RESULTS.read_bytes(), type=batches.Results))
    page.fill(PAGE, sections)
    return 0


def machine(about: Mapping[str, str | int | float]) -> str:
    """One sentence."""
    return f"{about['date']}, {about['cores']} cores of an {about['cpu']}, {about['memory_gib']} GiB.\n"


def cases(found: list[Case]) -> str:
    """A row a case."""
    heads = ("what happens", "requests", *KINDS, "unready after", "all well after", "longest response")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for case in found:
        counts = [f"{getattr(case, kind):,}" for kind in KINDS]
        times = [f"{seconds:.1f} s" if seconds else "" for seconds in (case.noticed_s, case.recovery_s)]
        cells = [case.name, f"{case.requests:,}", *counts, *times, f"{case.latest_ms:,.0f} ms"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def overload(found: Overload) -> str:
    """A table of before, meanwhile and after."""
    statuses = ", ".join(f"{count:,} x {status}" for status, count in sorted(found.statuses.items()))
    before, most = found.gateway_mib
    return (
        "| | requests/s | 200 responses/s | p50 of these | p99 of these | gateway's memory |\n"
        "|---|---|---|---|---|---|\n"
        f"| maximum load | {found.peak_per_second:,.0f} | {found.peak_per_second:,.0f}"
        f" | {found.peak_p50_ms:,.0f} ms | {found.peak_p99_ms:,.0f} ms | {before:,.0f} MiB |\n"
        f"| five times the maximum | {found.offered_per_second:,.0f} | {found.goodput_per_second:,.0f}"
        f" ({found.goodput_per_second / found.peak_per_second:.0%}) | {found.accepted_p50_ms:,.0f} ms"
        f" | {found.accepted_p99_ms:,.0f} ms ({found.accepted_p99_ms / found.peak_p99_ms:.1f} x)"
        f" | {most:,.0f} MiB at most |\n"
        f"| five seconds later | {found.after_per_second:,.0f} | {found.after_per_second:,.0f} | | | |\n"
        f"\nResponses under overload: {statuses}.\n"
    )


def attacks(found: hostile.Results) -> str:
    """A row an attack."""
    heads = ("attack", "stall", "/health/live", "text", "image", "image by URL", "memory", "goes on for", "responses")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for case in found.cases:
        times = (case.stall_ms, case.live_ms, case.text_ms, case.image_ms, case.url_ms)
        memory = f"{case.memory:.1f} x" if case.memory is not None else ""
        still = f"{case.still_s:.1f} s" if case.still_s > 1 else ""
        statuses = ", ".join(f"{count:,} x {status}" for status, count in sorted(case.statuses.items()))
        cells = [case.name, *(f"{time:,.0f} ms" for time in times), memory, still, statuses]
        lines.append(f"| {' | '.join(cells)} |")
    about = found.machine
    failed = sum(case.failed for case in found.cases)
    return "\n".join(lines) + (
        f"\n\n{about['date']}, {about['cores']} cores of an {about['cpu']}; medians of {found.rounds} rounds. Of the"
        f" neighbour's requests, {failed} failed.\n"
    )


def endurance(found: soak.Results) -> str:
    """The first and the last quarter beside each other, and how memory grew in the second half."""
    count = len(found.minutes)
    quarters = {"first": found.minutes[: max(1, count // 4)], "last": found.minutes[-max(1, count // 4) :]}
    lines = [
        "| | " + " | ".join(f"{name} {len(part)} minutes" for name, part in quarters.items()) + " |",
        "|---|---|---|",
    ]
    for name in found.requests_per_second:
        cells = [
            f"{statistics.median(one.p50_ms[name] for one in part):,.1f} ms,"
            f" {statistics.median(one.p99_ms[name] for one in part):,.1f} ms"
            for part in quarters.values()
        ]
        lines.append(f"| {name}: p50, p99 | {' | '.join(cells)} |")
    for process in found.minutes[-1].rss_mib:
        cells = [
            f"{statistics.median(one.rss_mib.get(process, 0) for one in part):,.0f} MiB" for part in quarters.values()
        ]
        lines.append(f"| {process} | {' | '.join(cells)} |")
    statuses = sum((Counter(one.statuses) for one in found.minutes), Counter[str]())
    responses = ", ".join(f"{number:,} x {status}" for status, number in sorted(statuses.items()))
    rates = ", ".join(f"{rate:.1f} {name}" for name, rate in found.requests_per_second.items())
    return "\n".join([*lines, "", f"Requests per second: {rates}. Responses: {responses}."]) + "\n"


def background(found: batches.Results) -> str:
    """Requests without and beside a batch, and what came of the whole batch."""
    lines = ["| requests | p50 | p99 | failed |", "|---|---|---|---|"]
    for name, part in (("without a batch", found.without), ("beside a batch", found.beside)):
        lines.append(f"| {part.requests:,} {name} | {part.p50_ms:,.0f} ms | {part.p99_ms:,.0f} ms | {part.failed} |")
    whole, about = found.whole, found.machine
    machine = f"{about['date']}, {about['cores']} cores of an {about['cpu']}"
    return "\n".join(lines) + (
        f"\n\nBeside a batch, the p99 is {found.beside.p99_ms / found.without.p99_ms:.2f} times as long. The batch of"
        f" {found.texts:,} texts then ran to its end beside these requests in {whole.seconds / 60:,.0f} minutes,"
        f" {whole.texts_per_second:,.0f} texts/s. The gateway was killed when {whole.done_when_killed:,} texts were"
        f" done: {whole.missing} were lost, {whole.repeated} done twice, {whole.failed} failed.\n\n"
        f"{machine}; {found.online_per_second:.0f} requests per second, at random times.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
