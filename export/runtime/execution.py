"""How much a torch program computes at once: execution.json, which the compile step measures.

Entries of the torch backend hold a copy of this file.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

EXECUTION = "execution.json"
SHARE = 4
"""A pack takes at most one part in so many of the memory that is free at the start: other instances need theirs."""
SCORES = 1 << 28
"""Attention scores of one execution where rows are padded: 1 GiB in fp32."""


@dataclass(frozen=True, slots=True)
class Execution:
    """The limits of a pack. A row that is beyond them is computed alone."""

    tokens: int = 16384
    rows: int = 1024
    bytes_per_token: int = 0
    """Memory that a pack takes while it is computed; 0 where that is not known."""

    def write(self, folder: Path) -> None:
        """Write execution.json."""
        (folder / EXECUTION).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Execution":
        """Read execution.json; the defaults where nothing was measured, or what was cannot be read."""
        try:
            found = cls(**json.loads((folder / EXECUTION).read_text()))
            if all(isinstance(value, int) for value in asdict(found).values()) and min(found.tokens, found.rows) > 0:
                return found
        except (OSError, TypeError, ValueError):
            pass
        return cls()

    def within(self, free: int) -> "Execution":
        """The same in so many bytes of free memory."""
        if not self.bytes_per_token:
            return self
        return replace(self, tokens=max(1, min(self.tokens, free // SHARE // self.bytes_per_token)))


def cut(costs: Sequence[int], limits: Execution, heads: int = 0) -> list[list[int]]:
    """Cut rows into packs, short rows first.

    Args:
        costs: tokens of each row.
        limits: of a pack.
        heads: attention heads of a program that pads rows to the longest; 0 for any other.

    Returns:
        The indices of each pack's rows; together every row exactly once.
    """
    packs: list[list[int]] = []
    tokens = 0
    for index in sorted(range(len(costs)), key=costs.__getitem__):
        cost = costs[index]  # the longest of its pack so far
        tokens += cost
        rows = len(packs[-1]) + 1 if packs else 0
        if not rows or tokens > limits.tokens or rows > limits.rows or rows * cost**2 * heads > SCORES:
            packs.append([])
            tokens = cost
        packs[-1].append(index)
    return packs
