"""The bodies of all requests under way, which share a limit on memory."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors import Overloaded

SMALL_BYTES = 64 * 2**10
"""Of each body, which are not counted: a small request has room in any case."""


class Body:
    """What one request has sent so far, and holds until it is answered."""

    def __init__(self, bodies: "Bodies", key: str) -> None:
        self._bodies = bodies
        self._key = key
        self.size = 0
        """Bytes."""

    def grow(self, size: int) -> None:
        """Count more that has come in.

        Raises:
            Overloaded: there is no room for it.
        """
        self._bodies.take(self._key, max(0, self.size + size - SMALL_BYTES) - self._counted())
        self.size += size

    def release(self) -> None:
        """Give all back."""
        self._bodies.take(self._key, -self._counted())
        self.size = 0

    def _counted(self) -> int:
        return max(0, self.size - SMALL_BYTES)


class Bodies:
    """Counts what has come in, not what is announced."""

    def __init__(self, most_bytes: int, most_of_key: int) -> None:
        """Share memory.

        Args:
            most_bytes: of all bodies together.
            most_of_key: of those that came with one API key, so that nobody takes everything.
        """
        self._most_bytes = most_bytes
        self._most_of_key = most_of_key
        self._by_key: Counter[str] = Counter()
        self.size = 0
        """Bytes that are held, SMALL_BYTES of each body left out."""

    @contextmanager
    def hold(self, key: str) -> Iterator[Body]:
        """A body that is held as long as its request is under way.

        Args:
            key: whose it is; empty where there are no keys.
        """
        body = Body(self, key)
        try:
            yield body
        finally:
            body.release()

    def take(self, key: str, size: int) -> None:
        """Count what a body grew by, or gives back; raises Overloaded where there is no room."""
        total, of_key = self.size + size, self._by_key[key] + size
        if size > 0 and (total > self._most_bytes or (key and of_key > self._most_of_key)):
            whose = "under way" if total > self._most_bytes else "under way with this API key"
            raise Overloaded(
                f"the requests {whose} hold as many bytes as they may; try again later, or send less at once"
            )
        self.size, self._by_key[key] = total, of_key
        if not of_key:
            del self._by_key[key]
