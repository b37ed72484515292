"""Where a request's time goes: noted while it is answered, for metrics, headers and traces."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from gateway.telemetry.spans import NO_SPANS, Spans

Stage = Literal["parse", "tokenise", "decode", "queue", "inference", "reply"]
"""From the whole body to checked fields; texts to tokens; images to pixels, fetching included; the wait for a turn at
Triton; Triton's queue and the model; the rest until the last byte of the answer is handed over."""


@dataclass(slots=True)
class Stages:
    """One request's."""

    spans: Spans = NO_SPANS
    times: list[tuple[Stage, float]] = field(default_factory=list)
    """Seconds of all that have ended; a stage is there as many times as a request has parts."""
    parts: list[tuple[str, int, int]] = field(default_factory=list)
    """Calls that Triton was sent: the model's Triton name, rows and tokens."""
    ended_at: float = 0.0
    """When the last one did, by time.perf_counter."""

    @contextmanager
    def stage(self, name: Stage, **attributes: str | int) -> Iterator[None]:
        """Note the time of what is done within.

        Args:
            name: which.
            attributes: of its span in a trace.
        """
        started = time.perf_counter()
        try:
            with self.spans.child(name, attributes):
                yield
        finally:
            self.end(name, started)

    def end(self, name: Stage, started: float) -> None:
        """Note the time since `started`, by time.perf_counter."""
        self.ended_at = time.perf_counter()
        self.times.append((name, self.ended_at - started))

    def longest_s(self, name: Stage) -> float:
        """Of the parts of a request, which are under way together."""
        return max((seconds for stage, seconds in self.times if stage == name), default=0.0)
