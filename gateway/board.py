"""Numbers that the workers of a gateway share, in memory: metrics, queues, quotas and signs of life.

A board has rows with names and one column per worker. A worker writes only its own column, so writing takes no lock,
and the sum over the columns is always current. One more column is common to all: it is written under the lock.
"""

import fcntl
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROWS = 2**18
"""The most rows. The last one takes what does not fit."""
NAMES_BYTES = 2**25
"""Room for the names. Memory is allocated as it is used."""
HEADER_BYTES = 8
"""Holds the size of the names that are complete."""
ENTRY_BYTES = 8
"""Before each name: its length, the number of rows, and whether they last."""

BEATS, READY, LISTENS = "beats", "ready", "listens"
"""Rows that tell whether the event loop of a worker runs, whether the models answer it, and whether it accepts
connections."""


@dataclass(frozen=True, slots=True)
class Rows:
    """One or several rows with one name."""

    first: int
    width: int
    lasts: bool
    """Whether the numbers outlive the worker, as counts do. Others describe what the worker is doing: they end with it,
    and are not a number (NaN) until it writes them."""


class Board:
    """The board as one worker, or the parent of all, sees it."""

    def __init__(self, workers: int = 1, file: int = -1, column: int = 0) -> None:
        """Map a board.

        Args:
            workers: how many processes share it. There is a column more, for a worker that is about to replace another.
            file: from `create`; by default the board is private to this process.
            column: the one that this process writes.
        """
        self.workers = workers
        self.columns = workers + 1 if workers > 1 else 1
        self.file = file
        memory = mmap.mmap(file, _size(self.columns))
        self._used = memoryview(memory)[:HEADER_BYTES].cast("Q")
        self._names = memoryview(memory)[HEADER_BYTES:NAMES_BYTES]
        self._numbers: memoryview[float] = memoryview(memory)[NAMES_BYTES:].cast("d")
        self.own_column = column
        self.own = self.column(column)
        """The numbers of this worker, by row."""
        self.common = self.column(self.columns)
        """Numbers that every worker may change, under the lock."""
        self.matrix: NDArray[np.float64] = np.frombuffer(memory, np.float64, offset=NAMES_BYTES).reshape(-1, ROWS)[:-1]
        """The numbers of all workers [columns, ROWS]."""
        self._rows: dict[str, Rows] = {}
        self._read = 0
        self._next = 0

    @classmethod
    def create(cls, workers: int) -> "Board":
        """A board that child processes can map by its file."""
        file = os.memfd_create("conch-board")
        os.ftruncate(file, _size(workers + 1))
        return cls(workers, file)

    def column(self, column: int) -> "memoryview[float]":
        """The numbers of one worker, by row."""
        return self._numbers[column * ROWS : (column + 1) * ROWS]

    def row(self, name: str, width: int = 1, *, lasts: bool = False) -> int:
        """The index of the first row with a name. Rows that do not exist yet are added."""
        rows = self._rows.get(name)
        if rows is None:
            with self.locked():
                rows = self.rows().get(name) or self._add(name, width, lasts=lasts)
        return rows.first

    def rows(self) -> Mapping[str, Rows]:
        """All rows by name, also those that other workers have added."""
        used = self._used[0]
        while self._read < used:
            start = self._read + ENTRY_BYTES
            length, width = self._names[self._read : start].cast("I")
            name = bytes(self._names[start : start + (length >> 1)]).decode()
            self._rows[name] = Rows(self._next, width, bool(length & 1))
            self._next += width
            self._read = _aligned(start + (length >> 1))
        return self._rows

    def values(self, row: int) -> list[float]:
        """The numbers of all workers in a row, without those that are not a number."""
        values = self._numbers[row : self.columns * ROWS : ROWS].tolist()
        return [value for value in values if not math.isnan(value)]

    def total(self, row: int) -> float:
        """The sum over all workers."""
        if self.columns == 1:
            return self.own[row] if self.own[row] == self.own[row] else 0
        return sum(self.values(row))

    def leave(self, column: int) -> None:
        """Forget what a worker that has ended was doing. Its counts stay, and the next one in the column goes on with
        them."""
        numbers = self.column(column)
        for rows in self.rows().values():
            if not rows.lasts:
                numbers[rows.first] = math.nan

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all other workers from entering such a block. The kernel frees the lock of a process that ends."""
        if self.file < 0:
            yield
            return
        fcntl.lockf(self.file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self.file, fcntl.LOCK_UN)

    def _add(self, name: str, width: int, *, lasts: bool) -> Rows:
        encoded = name.encode()
        start = self._read + ENTRY_BYTES
        end = _aligned(start + len(encoded))
        if self._next + width >= ROWS or end > len(self._names):
            return Rows(ROWS - width, width, lasts)
        if not lasts:
            for column in range(self.columns):
                self.column(column)[self._next] = math.nan
        entry = self._names[self._read : start].cast("I")
        self._names[start : start + len(encoded)] = encoded
        entry[0], entry[1] = len(encoded) << 1 | lasts, width
        self._used[0] = end  # last: until then, the name is not there for others
        return self.rows()[name]


def _size(columns: int) -> int:
    return NAMES_BYTES + (columns + 1) * ROWS * 8


def _aligned(size: int) -> int:
    return -(-size // ENTRY_BYTES) * ENTRY_BYTES
