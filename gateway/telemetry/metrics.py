"""Prometheus metrics of requests. Labels are bounded: to the paths and statuses of the API, and the served models.

The workers of a gateway count on a board, and each of them answers a scrape for all: counts are summed up, and every
gauge says how it is combined. Prometheus scrapes every replica and adds them up. The label `model` is the model's
public name; in metrics of calls to Triton, it is the name in Triton, as in Triton's own metrics.
"""

import math
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.board import Board
from gateway.telemetry.record import RequestRecord

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS = tuple(2**i for i in range(11))
TOKENS = tuple(2**i for i in range(3, 17))
PREFIX = "metric "
"""Of the names of rows that hold metrics, before the metric and its labels in JSON."""
CPU = "process_cpu_seconds"
IN_FLIGHT = "conch_requests_in_flight"
"""The gauge of unfinished requests."""

Combine = Callable[[Sequence[float]], float]


@dataclass(frozen=True, slots=True)
class Count:
    """A counter, or a histogram if it has buckets."""

    name: str
    documentation: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """The rows that it takes: one, or the buckets, the rest above them, and the sum of the values."""
        return len(self.buckets) + 2 if self.buckets else 1


@dataclass(frozen=True, slots=True)
class Gauge:
    """What a worker says of its state."""

    name: str
    documentation: str
    label: str
    """Empty for a gauge without labels, whose only value has an empty label."""
    combine: Combine
    """Makes one value of those of all workers: the sum of their work, the minimum of their health."""
    read: Callable[[], Mapping[str, float]]
    """The values of this worker by label."""


PROCESS: Mapping[str, tuple[str, Combine]] = {
    "process_virtual_memory_bytes": ("Virtual memory size in bytes.", sum),
    "process_resident_memory_bytes": ("Resident memory size in bytes.", sum),
    "process_start_time_seconds": ("Start time of the process since unix epoch in seconds.", min),
    "process_open_fds": ("Number of open file descriptors.", sum),
    "process_max_fds": ("Maximum number of open file descriptors.", sum),
}
"""Gauges of prometheus_client about the process."""


class Metrics(Collector):
    def __init__(self, paths: Set[str], board: Board | None = None) -> None:
        """Start all counters at zero, or where the worker stopped that had this place before.

        Args:
            paths: the paths of the API, which become the label `path`; "{id}" matches any text.
            board: holds all numbers; by default they are this process's own.
        """
        self._paths = paths
        self._templates = [
            (path, re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(path)))) for path in sorted(paths) if "{" in path
        ]
        self._board = board or Board()
        self._own = self._board.own
        self._counts = [Count(CPU, "Total user and system CPU time spent in seconds.", ())]
        self._process = ProcessCollector(registry=None)
        self._process_values = {CPU: 0.0}
        self._gauges = [
            Gauge(name, documentation, "", combine, lambda name=name: {"": self._process_values.get(name, math.nan)})  # type: ignore[misc]
            for name, (documentation, combine) in PROCESS.items()
        ]
        self._said: Set[int] = frozenset()
        self._cpu = self._board.row(_name(CPU), lasts=True)
        self._cpu_before = self._own[self._cpu]
        self._registry = CollectorRegistry()
        self._registry.register(self)

        self._requests = self._count("requests", "Requests answered.", "path", "model", "status")
        self._errors = self._count("errors", "Requests that failed, by error class.", "model", "type")
        self._inputs = self._count("request_inputs", "Texts, images and documents in requests.", "model")
        self._tokens = self._count("request_tokens", "Tokens reported to clients in usage.", "model")
        self._images = self._count("request_images", "Images in requests.", "model")
        self._sparse_truncated = self._count(
            "sparse_truncated", "Sparse vectors with as many terms as the model can return.", "model"
        )
        self._ignored = self._count("ignored_fields", "Unknown request fields that were ignored.", "path")
        self._batch_requests = self._count("batch_requests", "Requests of batches answered.", "path", "model", "status")
        self._cache_hits = self._count("cache_hits", "Rows that were not computed, thanks to the cache.", "model")
        self._cache_misses = self._count("cache_misses", "Rows that the cache did not have.", "model")
        self._cache_evictions = self._count("cache_evictions", "Rows that the cache had to drop for others.")
        self._own[self._cache_evictions()] += 0
        self._seconds = self._count(
            "request_duration_seconds", "From the request headers to the end of the response.", "path", buckets=SECONDS
        )
        self._stages = self._count(
            "stage_duration_seconds", "Time that requests spend in a stage.", "stage", "model", buckets=SECONDS
        )
        self._batch_rows = self._count("batch_rows", "Rows per batch of a request.", "model", buckets=ROWS)
        self._batch_tokens = self._count("batch_tokens", "Tokens per batch of a request.", "model", buckets=TOKENS)

    def watch(self, gauges: Sequence[Gauge]) -> None:
        """Also export these gauges."""
        self._gauges += gauges

    def route(self, path: str) -> str:
        """The `path` label of a path: its template, or "other" if the API has no such path."""
        if path in self._paths:
            return path
        return next((template for template, pattern in self._templates if pattern.fullmatch(path)), "other")

    def count(self, record: RequestRecord) -> None:
        """Count a finished request."""
        own, model, route = self._own, record.model, record.route
        own[self._requests(route, model, str(record.status))] += 1
        self._observe(self._seconds(route), SECONDS, record.duration_s)
        for stage, took_s in record.timings.times:
            self._observe(self._stages(stage, model), SECONDS, took_s)
        for call in record.timings.calls:
            self._observe(self._batch_rows(call.model), ROWS, call.rows)
            self._observe(self._batch_tokens(call.model), TOKENS, call.tokens)
        if record.error:
            own[self._errors(model, record.error)] += 1
        if record.ignored_fields:
            own[self._ignored(route)] += len(record.ignored_fields)
        counted = (
            (self._inputs, record.inputs),
            (self._tokens, record.tokens),
            (self._images, record.images),
            (self._sparse_truncated, record.sparse_truncated),
        )
        if record.inputs:
            own[self._cache_hits(model)] += record.timings.cache_hits
            own[self._cache_misses(model)] += record.timings.cache_misses
        for row, amount in counted:
            if amount:
                own[row(model)] += amount

    def count_in_batch(self, record: RequestRecord) -> None:
        """Count a finished request of a batch. Its time says nothing: it yields to others."""
        own, model = self._own, record.model
        own[self._batch_requests(record.route, model, str(record.status))] += 1
        for row, amount in ((self._inputs, record.inputs), (self._tokens, record.tokens)):
            if amount:
                own[row(model)] += amount

    def count_evictions(self, rows: int) -> None:
        """Count rows that the cache dropped."""
        self._own[self._cache_evictions()] += rows

    def publish(self) -> None:
        """Write what only this process knows, its gauges and its CPU time, to the board."""
        # The collector leaves out what it cannot read, as when no file descriptor is left: that stays as it was.
        self._process_values |= {metric.name: metric.samples[0].value for metric in self._process.collect()}
        self._own[self._cpu] = self._cpu_before + self._process_values[CPU]
        said = set()
        for gauge in self._gauges:
            for label, value in gauge.read().items():
                row = self._board.row(_name(gauge.name, label))
                self._own[row] = value
                said.add(row)
        for row in self._said - said:
            self._own[row] = math.nan
        self._said = said

    def gauge(self, name: str) -> float:
        """The value of a gauge without labels, over all workers."""
        self.publish()
        (gauge,) = (gauge for gauge in self._gauges if gauge.name == name)
        return gauge.combine(self._board.values(self._board.row(_name(name, ""))))

    def text(self) -> bytes:
        """All metrics in Prometheus's text format (prometheus.io/docs/instrumenting/exposition_formats)."""
        self.publish()
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """All metrics, over all workers."""
        found: dict[str, dict[tuple[str, ...], int]] = defaultdict(dict)
        for name, rows in self._board.rows().items():
            if name.startswith(PREFIX):
                metric, *labels = msgspec.json.decode(name.removeprefix(PREFIX), type=list[str])
                found[metric][tuple(labels)] = rows.first
        for gauge in self._gauges:
            family = GaugeMetricFamily(gauge.name, gauge.documentation, labels=[gauge.label] if gauge.label else [])
            for label, row in found[gauge.name].items():
                if values := self._board.values(row):
                    family.add_metric(label if gauge.label else (), gauge.combine(values))
            yield family
        for count in self._counts:
            yield self._family(count, found[count.name])

    def _family(self, count: Count, found: Mapping[tuple[str, ...], int]) -> Metric:
        if not count.buckets:
            counter = CounterMetricFamily(count.name, count.documentation, labels=count.labels)
            for labels, row in found.items():
                counter.add_metric(labels, self._board.total(row))
            return counter
        histogram = HistogramMetricFamily(count.name, count.documentation, labels=count.labels)
        bounds = [*(str(float(bound)) for bound in count.buckets), "+Inf"]
        for labels, row in found.items():
            *counts, total = (self._board.total(row + place) for place in range(count.width))
            histogram.add_metric(labels, list(zip(bounds, accumulate(counts), strict=True)), total)
        return histogram

    def _count(
        self, name: str, documentation: str, *labels: str, buckets: tuple[float, ...] = ()
    ) -> Callable[..., int]:
        """Declare a metric; returns a function from labels to its first row."""
        count = Count(f"conch_{name}", documentation, labels, buckets)
        self._counts.append(count)
        # Cached, since finding a row by its name takes longer than counting.
        return cache(lambda *values: self._board.row(_name(count.name, *values), count.width, lasts=True))

    def _observe(self, row: int, buckets: tuple[float, ...], value: float) -> None:
        self._own[row + bisect_left(buckets, value)] += 1
        self._own[row + len(buckets) + 1] += value


def _name(*metric_and_labels: str) -> str:
    return PREFIX + msgspec.json.encode(metric_and_labels).decode()
