"""Prometheus metrics of requests. Labels are bounded: to the paths and statuses of the API, and the served models.

Each gateway is one process with its own metrics: Prometheus scrapes every replica and adds them up. The label `model`
is the model's public name; in metrics of calls to Triton, it is the name in Triton, as in Triton's own metrics.
"""

import re
from collections.abc import Set
from functools import cache

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.registry import Collector

from gateway.telemetry.record import RequestRecord

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS = tuple(2**i for i in range(11))
TOKENS = tuple(2**i for i in range(3, 17))

disable_created_metrics()  # type: ignore[no-untyped-call] # it would double the number of series


class Metrics:
    def __init__(self, paths: Set[str]) -> None:
        """Start all counters at zero.

        Args:
            paths: the paths of the API, which become the label `path`; "{id}" matches any text.
        """
        self._paths = paths
        self._templates = [
            (path, re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(path)))) for path in sorted(paths) if "{" in path
        ]
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def counter(name: str, documentation: str, *labels: str) -> Counter:
            return Counter(f"conch_{name}", documentation, labels, registry=registry)

        def histogram(name: str, documentation: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"conch_{name}", documentation, labels, registry=registry, buckets=buckets)

        # Cached, since prometheus_client's own lookup of a child takes longer than updating it.
        self._requests = cache(counter("requests", "Requests answered.", "path", "model", "status").labels)
        self._errors = cache(counter("errors", "Requests that failed, by error class.", "model", "type").labels)
        self._inputs = cache(counter("request_inputs", "Texts, images and documents in requests.", "model").labels)
        self._tokens = cache(counter("request_tokens", "Tokens reported to clients in usage.", "model").labels)
        self._images = cache(counter("request_images", "Images in requests.", "model").labels)
        self._ignored = cache(counter("ignored_fields", "Unknown request fields that were ignored.", "path").labels)
        self._seconds = cache(
            histogram(
                "request_duration_seconds", "From the request headers to the end of the response.", SECONDS, "path"
            ).labels
        )
        self._stages = cache(
            histogram(
                "stage_duration_seconds", "Time that requests spend in a stage.", SECONDS, "stage", "model"
            ).labels
        )
        self._batch_rows = cache(histogram("batch_rows", "Rows per call to Triton.", ROWS, "model").labels)
        self._batch_tokens = cache(histogram("batch_tokens", "Tokens per call to Triton.", TOKENS, "model").labels)

    def watch(self, state: Collector) -> None:
        """Also export the gauges of this collector."""
        self._registry.register(state)

    def route(self, path: str) -> str:
        """The `path` label of a path: its template, or "other" if the API has no such path."""
        if path in self._paths:
            return path
        return next((template for template, pattern in self._templates if pattern.fullmatch(path)), "other")

    def count(self, record: RequestRecord) -> None:
        """Count a finished request."""
        model, route = record.model, record.route
        self._requests(route, model, str(record.status)).inc()
        self._seconds(route).observe(record.duration_s)
        for stage, took_s in record.timings.times:
            self._stages(stage, model).observe(took_s)
        for call in record.timings.calls:
            self._batch_rows(call.model).observe(call.rows)
            self._batch_tokens(call.model).observe(call.tokens)
        if record.error:
            self._errors(model, record.error).inc()
        if record.ignored_fields:
            self._ignored(route).inc(len(record.ignored_fields))
        counted = ((self._inputs, record.inputs), (self._tokens, record.tokens), (self._images, record.images))
        for counter, amount in counted:
            if amount:
                counter(model).inc(amount)

    def text(self) -> bytes:
        """All metrics in Prometheus's text format (prometheus.io/docs/instrumenting/exposition_formats)."""
        return generate_latest(self._registry)
