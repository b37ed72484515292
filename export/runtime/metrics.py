"""Publishes what an engine counts as metrics of Triton.

Entries of the python and the torch backend hold a copy of this file.
"""

from __future__ import annotations  # as in model.py

from collections.abc import Iterator, Mapping
from threading import Event, Thread
from typing import Protocol

import triton_python_backend_utils as triton

from .counts import Counts

INTERVAL_S = 0.25
"""An update is a message to the server's process, which takes 40 us. So no batch waits for one: a thread sends those of
metrics that have changed."""
DESCRIPTIONS: Mapping[str, str] = {
    "conch_tokens_total": "Tokens computed",
    "conch_padding_tokens_total": "Work on padding, in tokens",
    "conch_engine_executions_total": "Executions: replays of a CUDA graph, or launches of a compiled or eager program",
    "conch_engine_busy_seconds_total": "Time of computation",
    "conch_engine_halved_batches_total": "Batches computed in halves, because there was no memory for the whole",
    "conch_engine_tokens_in_flight": "Tokens that are computed now",
    "conch_engine_memory_bytes": "Memory that the process holds, and that of its GPU",
}
"""Those that end in `_total` are counters, the others gauges."""


class Counting(Protocol):
    """An engine."""

    counts: Counts

    def memory(self) -> Mapping[str, int]:
        """Bytes by kind."""


class Publisher:
    """Keeps Triton's metrics equal to what an engine counts, until it is closed."""

    def __init__(self, engine: Counting, model: str, device: str, instance: str) -> None:
        """Publish for the first time.

        Args:
            engine: whose counts they are.
            model: its name in Triton.
            device: where it computes.
            instance: its name among the instances of the model. Their counters add up, their gauges do not.
        """
        self._engine = engine
        self._model = {"model": model}
        self._device = {**self._model, "device": device}
        self._instance = {**self._device, "model_instance": instance}
        # The families have to outlive their metrics.
        self._families = {
            name: triton.MetricFamily(
                name,
                description,
                triton.MetricFamily.COUNTER if name.endswith("_total") else triton.MetricFamily.GAUGE,
            )
            for name, description in DESCRIPTIONS.items()
        }
        self._metrics: dict[tuple[str, str], triton.Metric] = {}
        self._published: dict[tuple[str, str], float] = {}
        self._publish()
        self._closed = Event()
        self._thread = Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Publish for the last time."""
        self._closed.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._closed.wait(INTERVAL_S):
            self._publish()
        self._publish()

    def _publish(self) -> None:
        for name, labels, part, value in self._values():
            key = name, "".join(part.values())
            if key not in self._metrics:
                self._metrics[key] = self._families[name].Metric(labels={**labels, **part})
            change = value - self._published.get(key, 0)
            if change and name.endswith("_total"):
                self._metrics[key].increment(change)
            elif change:
                self._metrics[key].set(value)
            self._published[key] = value

    def _values(self) -> Iterator[tuple[str, Mapping[str, str], Mapping[str, str], float]]:
        """The name, labels and value of each metric; the third says which of a family's it is."""
        counts = self._engine.counts
        yield "conch_tokens_total", self._model, {}, counts.tokens
        yield "conch_padding_tokens_total", self._model, {}, counts.padding
        for mode, number in list(counts.executions.items()):
            yield "conch_engine_executions_total", self._device, {"mode": mode}, number
        yield "conch_engine_busy_seconds_total", self._device, {}, counts.busy
        yield "conch_engine_halved_batches_total", self._device, {}, counts.halved
        yield "conch_engine_tokens_in_flight", self._instance, {}, counts.in_flight
        for kind, size in self._engine.memory().items():
            yield "conch_engine_memory_bytes", self._instance, {"kind": kind}, size
