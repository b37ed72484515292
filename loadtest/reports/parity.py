"""`make parity`: measures how exact each family is on each backend, and writes the table of docs/models.md."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from loadtest.experiments.parity import CASES, COLUMNS, RUNS, Found, measure
from loadtest.reports import page

PAGE = Path("docs/models.md")


def main() -> int:
    """Measure all cases and write."""
    found: list[Found] = []
    with Progress() as progress:
        for case in progress.track(CASES, description="families"):
            with tempfile.TemporaryDirectory() as scratch:
                found += measure(case, RUNS, Path(scratch))
    print(table(found))
    page.fill(PAGE, {"parity": table(found)})
    return 0


def table(found: Sequence[Found]) -> str:
    """The rows as a table in Markdown."""
    lines = [
        "| family | role | rows | " + " | ".join(f"{backend} {precision}" for backend, precision in COLUMNS) + " |",
        "|---|---|---|" + "---|" * len(COLUMNS),
    ]
    for one in found:
        cells = [f"{one.errors[key]:.0e}" if key in one.errors else "fp32 instead" for key in COLUMNS]
        lines.append(f"| {one.label} | {one.role} | {one.rows} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
