"""Keeps what models computed of rows, for the same rows to come.

A row is found by a digest of all that its result depends on: the state of the model (`TextModel.generation`), what is
wanted of it, the token ids of its segments, and the value of its prefix input.
"""

import asyncio
import os
import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import chain
from typing import NamedTuple

DIGEST_BYTES = 16
"""Two of n rows have the same digest with a probability of n^2 / 2^129: below 10^-22 for a billion rows. The digest is
keyed with a secret of the process, so nobody can search for two texts that share one."""
STEP = 2**15
"""Tokens after which other requests have a turn on the event loop: about 2 ms."""
OVERHEAD_BYTES = 256
"""Memory of a result beside its bytes: two objects and their place in the dictionary."""


class Lookup(NamedTuple):
    """The rows of one call by where their results come from. Rows are indices in the call."""

    missing: Sequence[int]
    """To be computed: the first of each group of equal rows."""
    found: Sequence[tuple[int, bytes]] = ()
    """In the cache, with their packed results."""
    repeated: Sequence[tuple[int, int]] = ()
    """Rows that are equal to an earlier one that is missing, and which."""
    keys: Sequence[bytes] = ()
    cache: "Cache | None" = None

    def keep(self, rows: Sequence[int], pack: Callable[[int], bytes]) -> None:
        """Keep the results of rows that were missing and have now been computed."""
        if self.cache is not None:
            for row in rows:
                self.cache.put(self.keys[row], pack(row))


class Cache:
    """Results by digest; the least recently used are evicted. Use it in one event loop only."""

    def __init__(self, max_bytes: int, evicted: Callable[[int], None] = lambda _: None) -> None:
        """Create an empty cache.

        Args:
            max_bytes: limit of the memory of all results, with OVERHEAD_BYTES for each.
            evicted: told how many results had to make room for another.
        """
        self._max_bytes = max_bytes
        self._evicted = evicted
        self._results: OrderedDict[bytes, bytes] = OrderedDict()  # a plain dict does not find its first key in O(1)
        self._digest = blake2b(digest_size=DIGEST_BYTES, key=os.urandom(blake2b.MAX_KEY_SIZE))
        self.size = 0
        """Bytes in use."""

    async def lookup(self, state: str, rows: Sequence[Sequence[Sequence[int]]], prefixes: Sequence[int]) -> Lookup:
        """Look up the rows of a call, which makes those that are found the most recently used.

        Args:
            state: what the results of all rows depend on; without the character NUL.
            rows: the token ids of each segment of each row.
            prefixes: the value of the prefix input for each row; empty if it is the same for all.
        """
        digest = self._digest.copy()
        digest.update(state.encode() + b"\0")
        keys: list[bytes] = []
        found: list[tuple[int, bytes]] = []
        repeated: list[tuple[int, int]] = []
        missing: dict[bytes, int] = {}
        step = 0
        for index, row in enumerate(rows):
            numbers = [prefixes[index] if prefixes else 0, *map(len, row), *chain(*row)]
            of_row = digest.copy()
            of_row.update(struct.pack(f"{len(numbers)}i", *numbers))
            key = of_row.digest()
            keys.append(key)
            step += len(numbers)
            if step > STEP:
                step = 0
                await asyncio.sleep(0)
            result = self._results.get(key)
            if result is not None:
                self._results.move_to_end(key)
                found.append((index, result))
            elif key in missing:
                repeated.append((index, missing[key]))
            else:
                missing[key] = index
        return Lookup([*missing.values()], found, repeated, keys, self)

    def put(self, key: bytes, result: bytes) -> None:
        """Keep a result, unless it is larger than the cache."""
        size = len(result) + OVERHEAD_BYTES
        if size > self._max_bytes or key in self._results:  # another request may have computed the same row
            return
        self._results[key] = result
        self.size += size
        count = 0
        while self.size > self._max_bytes:
            _, oldest = self._results.popitem(last=False)
            self.size -= len(oldest) + OVERHEAD_BYTES
            count += 1
        if count:
            self._evicted(count)
