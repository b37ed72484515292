"""What an engine counts, for the metrics of the server.

Entries of the python and the torch backend hold a copy of this file.
"""

import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter


@dataclass(slots=True)
class Counts:
    """What an engine has done since it was loaded, and what it does now."""

    tokens: int = 0
    padding: float = 0.0
    """Work on padding, in tokens."""
    executions: Counter[str] = field(default_factory=Counter)
    """By mode: "graph" is a recorded CUDA graph, "compiled" a compiled program, "eager" one that is not."""
    halved: int = 0
    """Batches that were computed in halves, because there was no memory for the whole."""
    busy: float = 0.0
    """Seconds of computation."""
    in_flight: int = 0
    """Tokens of the rows that are computed now."""

    @contextmanager
    def computing(self, tokens: int) -> Iterator[None]:
        """Count the time of a computation, and its tokens as in flight meanwhile."""
        started, self.in_flight = perf_counter(), tokens
        try:
            yield
        finally:
            self.in_flight = 0
            self.busy += perf_counter() - started


def resident_memory() -> dict[str, int]:
    """The bytes of RAM that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {"resident": pages * resource.getpagesize()}
