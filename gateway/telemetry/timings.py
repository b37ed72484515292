"""The time that a request spends in each stage, for metrics, response headers and traces."""

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

from msgspec import Struct

from gateway.telemetry.spans import NO_SPANS, Spans

Stage = Literal["parse", "tokenize", "decode", "queue", "inference", "reply"]
"""parse: validate the body. tokenize: texts to tokens. decode: images to pixels, including fetching. queue: wait for a
slot at Triton. inference: Triton's queue and the model. reply: the rest, until the last byte of the response is handed
to the socket."""


class TritonCall(Struct, frozen=True):
    """One batch sent to Triton, alone or in a call with those of other requests."""

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

    def stage(self, name: Stage, **attributes: str | int) -> "_Timed":
        """Time the enclosed block, in a span with these attributes."""
        return _Timed(self, name, self.spans.child(name, attributes))

    def end(self, name: Stage, started: float) -> None:
        """Record the time since `started`, in seconds of time.perf_counter."""
        self.ended_at = time.perf_counter()
        self.times.append((name, self.ended_at - started))

    def longest_s(self, name: Stage) -> float:
        """The longest time of a stage: the batches of a request run concurrently."""
        return max((seconds for stage, seconds in self.times if stage == name), default=0.0)


class _Timed:
    """A stage that is timed: a class, since a generator would cost twice as much."""

    __slots__ = ("_name", "_span", "_started", "_timings")

    def __init__(self, timings: Timings, name: Stage, span: AbstractContextManager[object]) -> None:
        self._timings, self._name, self._span = timings, name, span

    def __enter__(self) -> None:
        self._started = time.perf_counter()
        self._span.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._span.__exit__(kind, error, trace)
        finally:
            self._timings.end(self._name, self._started)
