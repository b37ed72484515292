"""Stored results of experiments: a JSON file for each."""

from pathlib import Path

import msgspec

STORED = Path(__file__).parents[1] / "results"


def store(results: msgspec.Struct, file: Path) -> None:
    """Write results to a file."""
    file.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    print(f"stored in {file}")
