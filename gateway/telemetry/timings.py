"""The time that a request spends in each stage, for metrics, response headers and traces."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from gateway.telemetry.spans import NO_SPANS, Spans

Stage = Literal["parse", "tokenize", "decode", "queue", "inference", "reply"]
"""parse: validate the body. tokenize: texts to tokens. decode: images to pixels, including fetching. queue: wait for a
slot at Triton. inference: Triton's queue and the model. reply: the rest, until the last byte of the response is handed
to the socket."""


@dataclass(frozen=True, slots=True)
class TritonCall:
    """One inference request sent to Triton."""

    model: str
    """The model's name in Triton."""
    rows: int
    tokens: int


@dataclass(slots=True)
class Timings:
    """The stages of one request."""

    spans: Spans = NO_SPANS
    times: list[tuple[Stage, float]] = field(default_factory=list)
    """Seconds of each stage that has ended. A stage is listed once per batch of the request."""
    calls: list[TritonCall] = field(default_factory=list)
    cache_hits: int = 0
    """Rows that were not computed for this request, or once for several that are equal."""
    cache_misses: int = 0
    """Rows that were looked up and then computed."""
    ended_at: float = 0.0
    """When the last stage ended, in seconds of time.perf_counter."""

    @contextmanager
    def stage(self, name: Stage, **attributes: str | int) -> Iterator[None]:
        """Time the enclosed block, in a span with these attributes."""
        started = time.perf_counter()
        try:
            with self.spans.child(name, attributes):
                yield
        finally:
            self.end(name, started)

    def end(self, name: Stage, started: float) -> None:
        """Record the time since `started`, in seconds of time.perf_counter."""
        self.ended_at = time.perf_counter()
        self.times.append((name, self.ended_at - started))

    def longest_s(self, name: Stage) -> float:
        """The longest time of a stage: the batches of a request run concurrently."""
        return max((seconds for stage, seconds in self.times if stage == name), default=0.0)
