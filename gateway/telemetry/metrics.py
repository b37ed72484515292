"""What Prometheus is told. Labels are bounded: paths and statuses are the API's, models those that are served.

A gateway is one process, and its metrics are its own: where several run, Prometheus scrapes and adds them up.
`model` is what clients call a model; of what goes on at Triton, it is the name that Triton's own metrics have.
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
ROWS = tuple(2**i for i in range(9))
TOKENS = tuple(2**i for i in range(3, 15))

disable_created_metrics()  # type: ignore[no-untyped-call] # each sample would have another, of when it began


class Metrics:
    """Of one gateway."""

    def __init__(self, paths: Set[str]) -> None:
        """Begin at zero.

        Args:
            paths: of the API, which requests are told apart by; all others are "other". "{id}" is any part of one.
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

        # Looked up by cache: prometheus_client's own way to a child takes longer than what is done with it.
        self._requests = cache(counter("requests", "Answered requests.", "path", "model", "status").labels)
        self._errors = cache(counter("errors", "Failed requests, by class of error.", "model", "type").labels)
        self._inputs = cache(counter("request_inputs", "Texts, images and documents in requests.", "model").labels)
        self._tokens = cache(counter("request_tokens", "Tokens that requests were told in usage.", "model").labels)
        self._images = cache(counter("request_images", "Images in requests.", "model").labels)
        self._ignored = cache(counter("ignored_fields", "Unknown fields in requests, left out.", "path").labels)
        self._seconds = cache(
            histogram("request_duration_seconds", "From the head to the end of the answer.", SECONDS, "path").labels
        )
        self._stages = cache(
            histogram("stage_duration_seconds", "Where the time of requests goes.", SECONDS, "stage", "model").labels
        )
        self._part_rows = cache(histogram("part_rows", "Rows in a call to Triton.", ROWS, "model").labels)
        self._part_tokens = cache(histogram("part_tokens", "Tokens in a call to Triton.", TOKENS, "model").labels)

    def watch(self, state: Collector) -> None:
        """Have the state of the gateway told too."""
        self._registry.register(state)

    def route(self, path: str) -> str:
        """What a path is counted as."""
        if path in self._paths:
            return path
        return next((template for template, pattern in self._templates if pattern.fullmatch(path)), "other")

    def count(self, record: RequestRecord) -> None:
        """Count a request that is over."""
        model, route = record.model, record.route
        self._requests(route, model, str(record.status)).inc()
        self._seconds(route).observe(record.duration_s)
        for stage, took_s in record.timings.times:
            self._stages(stage, model).observe(took_s)
        for call in record.timings.calls:
            self._part_rows(call.model).observe(call.rows)
            self._part_tokens(call.model).observe(call.tokens)
        if record.error:
            self._errors(model, record.error).inc()
        if record.ignored_fields:
            self._ignored(route).inc(len(record.ignored_fields))
        counted = ((self._inputs, record.inputs), (self._tokens, record.tokens), (self._images, record.images))
        for counter, amount in counted:
            if amount:
                counter(model).inc(amount)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it (prometheus.io/docs/instrumenting/exposition_formats)."""
        return generate_latest(self._registry)
