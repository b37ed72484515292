"""`python -m loadtest.reports.bulk`: writes the table of docs/bulk.md."""

import itertools
import sys
from pathlib import Path
from statistics import median

import msgspec

from loadtest.experiments.bulk import AT_ONCE, BATCHES, RESULTS, Results
from loadtest.reports import page

PAGE = Path("docs/bulk.md")


def main() -> int:
    """Write."""
    page.fill(PAGE, {"bulk": table(msgspec.json.decode(RESULTS.read_bytes(), type=Results))})
    return 0


def table(results: Results) -> str:
    """Medians: a row for each number of requests at a time, a column for each batch."""
    rates = {
        (batch, at_once): median(
            run.texts_per_second for run in results.runs if (run.batch, run.at_once) == (batch, at_once)
        )
        for batch, at_once in itertools.product(BATCHES, AT_ONCE)
    }
    lines = [
        "| texts/s | " + " | ".join(f"{batch} per request" for batch in BATCHES) + " |",
        "|---|" + "---|" * len(BATCHES),
        *(
            f"| {at_once} concurrent | " + " | ".join(f"{rates[batch, at_once]:.0f}" for batch in BATCHES) + " |"
            for at_once in AT_ONCE
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
