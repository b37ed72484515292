"""`python -m loadtest.reports.parity`: writes the table of docs/models.md."""

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from loadtest.experiments.parity import RESULTS, Found, Results
from loadtest.reports import page

PAGE = Path("docs/models.md")
COLUMNS = ("python fp32", "python bf16", "onnxruntime fp32", "onnxruntime fp16", "tensorrt fp32", "tensorrt fp16")


def main() -> int:
    """Write."""
    page.fill(PAGE, {"parity": table(msgspec.json.decode(RESULTS.read_bytes(), type=Results).found)})
    return 0


def table(found: Sequence[Found]) -> str:
    """A row for each model, a column for each backend and precision."""
    lines = ["| family | role | rows | " + " | ".join(COLUMNS) + " |", "|---|---|---|" + "---|" * len(COLUMNS)]
    for one in found:
        cells = [f"{one.errors[column]:.0e}" if column in one.errors else "fp32 instead" for column in COLUMNS]
        lines.append(f"| {one.label} | {one.role} | {one.rows} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
