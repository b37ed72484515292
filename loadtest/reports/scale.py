"""`python -m loadtest.reports.scale`: writes the table of docs/kubernetes.md."""

import sys
from pathlib import Path

import msgspec

from loadtest.experiments.scale import RESULTS, Results
from loadtest.reports import page

PAGE = Path("docs/kubernetes.md")


def main() -> int:
    """Write."""
    page.fill(PAGE, {"scale": table(msgspec.json.decode(RESULTS.read_bytes(), type=Results))})
    return 0


def table(results: Results) -> str:
    """A row a phase."""
    lines = ["| | requests | not answered correctly | longest response | calls to each Triton |"]
    lines += ["|---|---|---|---|---|"]
    for one in results.phases:
        shares = ", ".join(f"{share:.0%}" for share in one.shares.values())
        lines.append(f"| {one.name} | {one.requests:,} | {one.not_correct} | {one.latest_ms:,.0f} ms | {shares} |")
    lines += ["", f"The new Triton got its first call {results.pick_up_s:.1f} s after its address was in the name."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
