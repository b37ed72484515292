"""`python -m loadtest.reports.parity`: writes the table of docs/models.md."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from loadtest.experiments.parity import RESULTS, Found, Results
from loadtest.reports import page

PAGE = Path("docs/models.md")
COLUMNS: Mapping[str, Sequence[str]] = {
    **{name: (name,) for name in ("python fp32", "python bf16", "onnxruntime fp32", "onnxruntime fp16")},
    **{name: (name,) for name in ("tensorrt fp32", "tensorrt fp16", "torch fp32")},
    "torch fp16 or bf16": ("torch fp16", "torch bf16"),
}
"""The backends and precisions that a column shows, by its title: one of them is measured."""


def main() -> int:
    """Write."""
    page.fill(PAGE, {"parity": table(msgspec.json.decode(RESULTS.read_bytes(), type=Results).found)})
    return 0


def table(found: Sequence[Found]) -> str:
    """A row for each model, a column for each backend and precision."""
    lines = ["| family | role | rows | " + " | ".join(COLUMNS) + " |", "|---|---|---|" + "---|" * len(COLUMNS)]
    for one in found:
        cells = [cell(one.errors, keys) for keys in COLUMNS.values()]
        lines.append(f"| {one.label} | {one.role} | {one.rows} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def cell(errors: Mapping[str, float], keys: Sequence[str]) -> str:
    """The error of the key that is measured."""
    measured = [key for key in keys if key in errors]
    if not measured:
        backend = keys[0].partition(" ")[0]
        return "fp32 instead" if f"{backend} fp32" in errors else "-"
    (key,) = measured
    return f"{errors[key]:.0e}" + (f" ({key.rpartition(' ')[2]})" if len(keys) > 1 else "")


if __name__ == "__main__":
    sys.exit(main())
