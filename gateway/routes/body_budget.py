"""The memory limit that the bodies of all requests in flight share."""

from collections import Counter
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
            max_bytes_per_key: for the bodies sent to this worker with one API key, so that no client uses all of the
                memory.
            board: shared by the workers.
        """
        self._board = board or Board()
        self._row = self._board.row("bytes of bodies")
        self._board.own[self._row] = 0
        self._max_bytes = max_bytes
        self._max_bytes_per_key = max_bytes_per_key
        self._by_key: Counter[str] = Counter()

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
        key_total = self._by_key[key] + size
        with self._board.locked():
            total = self.size + size
            is_over = size > 0 and (total > self._max_bytes or (key != "" and key_total > self._max_bytes_per_key))
            if not is_over:
                self._board.own[self._row] += size
        if is_over:
            scope = "in flight" if total > self._max_bytes else "in flight with this API key"
            raise Overloaded(f"the request bodies {scope} reached the memory limit; try again later or send less")
        self._by_key[key] = key_total
        if not key_total:
            del self._by_key[key]
