"""`python -m loadtest.reports.capacity`: writes the table of checked loads."""

import sys
from pathlib import Path

import msgspec

from loadtest.experiments.capacity_check import RESULTS, Results
from loadtest.reports import page
from loadtest.tools.queueing import PERCENTILES

PAGE = Path("docs/capacity.md")


def main() -> int:
    """Write."""
    page.fill(PAGE, {"capacity": table(msgspec.json.decode(RESULTS.read_bytes(), type=Results))})
    return 0


def table(results: Results) -> str:
    """A row a load."""
    heads = [f"p{one}" for one in PERCENTILES]
    lines = [
        "| load | requests/s | " + " | ".join(f"{head} estimated, measured" for head in heads) + " |",
        "|---|---|" + "---|" * len(heads),
    ]
    for check in results.checks:
        pairs = [f"{check.expected_ms[one]:.0f}, {check.measured_ms[one]:.0f} ms" for one in PERCENTILES]
        lines.append(f"| {check.workload} | {check.requests_per_second:.0f} | " + " | ".join(pairs) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
