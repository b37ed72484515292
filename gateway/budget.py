"""A limit on how much of something is used at a time, for threads."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """So much, shared by those who hold a part of it; who comes first is served first, however much it asks for."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._turn = threading.Lock()
        self._returned = threading.Condition()

    @contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Wait for an amount, at most `size`, and give it back at the end."""
        with self._turn, self._returned:
            self._returned.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._returned:
                self._free += amount
                self._returned.notify()
