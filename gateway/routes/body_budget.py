"""The memory limit that the bodies of all requests in flight share."""

from collections.abc import Iterator
from contextlib import contextmanager

from gateway.board import Board
from gateway.errors import Overloaded

SMALL_BYTES = 64 * 2**10
"""This much of each body is not counted, so that small requests are always accepted."""


class Body:
    """The size of one request's body as received so far. It is held until the response is sent."""

    def __init__(self, bodies: "Bodies", key: str) -> None:
        self._bodies = bodies
        self._key = key
        self.size = 0
        """Bytes."""

    def grow(self, size: int) -> None:
        """Count bytes received.

        Raises:
            Overloaded: the memory limit is reached.
        """
        self._bodies.take(self._key, max(0, self.size + size - SMALL_BYTES) - self._counted())
        self.size += size

    def release(self) -> None:
        """Free the memory."""
        self._bodies.take(self._key, -self._counted())
        self.size = 0

    def _counted(self) -> int:
        return max(0, self.size - SMALL_BYTES)


class Bodies:
    """Counts the bytes received of all bodies, not their declared lengths."""

    def __init__(self, max_bytes: int, max_bytes_per_key: int, board: Board | None = None) -> None:
        """Set the limits.

        Args:
            max_bytes: for all bodies together, those of all workers included.
            max_bytes_per_key: for those sent with one API key, so that no client uses all of the memory.
            board: shared by the workers.
        """
        self._board = board or Board()
        self._rows: dict[str, int] = {}
        self._row = self._row_of("bytes of bodies")
        self._max_bytes = max_bytes
        self._max_bytes_per_key = max_bytes_per_key

    @property
    def size(self) -> int:
        """Bytes held by all workers, less SMALL_BYTES of each body."""
        return round(self._board.total(self._row))

    @contextmanager
    def hold(self, key: str) -> Iterator[Body]:
        """Hold a body until the end of its request.

        Args:
            key: the owner of the API key; empty if the server has no keys.
        """
        body = Body(self, key)
        try:
            yield body
        finally:
            body.release()

    def take(self, key: str, size: int) -> None:
        """Count bytes that are allocated, or freed if negative; raises Overloaded if a limit is reached."""
        if not size:
            return
        limits = [(self._row, self._max_bytes, "in flight")]
        if key:
            limits.append(
                (self._row_of(f"bytes of bodies {key}"), self._max_bytes_per_key, "in flight with this API key")
            )
        with self._board.locked():
            reached = [scope for row, limit, scope in limits if size > 0 and self._board.total(row) + size > limit]
            if not reached:
                for row, _, _ in limits:
                    self._board.own[row] += size
        if reached:
            raise Overloaded(f"the request bodies {reached[0]} reached the memory limit; try again later or send less")

    def _row_of(self, name: str) -> int:
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = self._board.row(name)
            self._board.own[row] = 0
        return row
