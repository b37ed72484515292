"""Memory limits that all requests in flight share."""

from types import TracebackType
from typing import Self

from gateway.board import Board
from gateway.errors import Overloaded, RequestTooLarge


class Held:
    """What one request holds of a budget. A context manager, at whose end the memory is free."""

    def __init__(self, budget: "Budget", key: str) -> None:
        self._budget = budget
        self._key = key
        self.size = 0
        """Bytes."""

    def grow(self, size: int) -> None:
        """Count bytes in addition; see `resize`."""
        self.resize(self.size + size)

    def resize(self, size: int) -> None:
        """Count this many bytes instead.

        Raises:
            Overloaded: the memory limit is reached.
            RequestTooLarge: even alone, the request would exceed the limit.
        """
        self._budget.take(self._key, self.size, size)
        self.size = size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.resize(0)


class Budget:
    """Counts bytes of all requests, in all workers."""

    def __init__(
        self,
        what: str,
        max_bytes: int,
        max_bytes_per_key: int,
        free_bytes: int,
        board: Board | None = None,
    ) -> None:
        """Set the limits.

        Args:
            what: has the bytes, such as "request bodies"; for messages.
            max_bytes: for all requests together, those of all workers included.
            max_bytes_per_key: for those with one API key, so that no client uses all of the memory.
            free_bytes: so much of each request is not counted, so that small ones are always accepted.
            board: shared by the workers.
        """
        self._what = what
        self._board = board or Board()
        self._rows: dict[str, int] = {}
        self._row = self._row_of(f"bytes of {what}")
        self._max_bytes = max_bytes
        self._max_bytes_per_key = max_bytes_per_key
        self._free_bytes = free_bytes

    @property
    def size(self) -> int:
        """Bytes held by all workers, as far as they are counted."""
        return round(self._board.total(self._row))

    def hold(self, key: str) -> Held:
        """Begin with nothing.

        Args:
            key: the owner of the API key; empty if the server has no keys.
        """
        return Held(self, key)

    def take(self, key: str, before: int, now: int) -> None:
        """Count `now` bytes of a request instead of those before; see `Held.resize`."""
        counted = max(0, now - self._free_bytes)
        more = counted - max(0, before - self._free_bytes)
        if not more:
            return
        limits = [(self._row, self._max_bytes, "in flight")]
        if key:
            row = self._row_of(f"bytes of {self._what} {key}")
            limits.append((row, self._max_bytes_per_key, "in flight with this API key"))
        if more > 0 and counted > (limit := min(limit for _, limit, _ in limits)):
            raise RequestTooLarge(f"{now} bytes of {self._what} exceed the memory limit of {limit} bytes")
        with self._board.locked():
            reached = [scope for row, limit, scope in limits if more > 0 and self._board.total(row) + more > limit]
            if not reached:
                for row, _, _ in limits:
                    self._board.own[row] += more
        if reached:
            raise Overloaded(f"the {self._what} {reached[0]} reached the memory limit; try again later or with less")

    def _row_of(self, name: str) -> int:
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = self._board.row(name)
            self._board.own[row] = 0
        return row
