"""What Prometheus is told. Labels are bounded: paths and statuses are the API's, models those that are served.

A gateway is one process, and its metrics are its own: where several run, Prometheus scrapes and adds them up.
`model` is what clients call a model; of what goes on at Triton, it is the name that Triton's own metrics have.
"""

import re
from collections.abc import Iterator, Mapping, Set
from functools import cache
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway import __version__
from gateway.catalog import Catalog
from gateway.drain import Drain
from gateway.health import Monitor
from gateway.scheduling.admission import Lines
from gateway.telemetry.timings import Stages
from gateway.triton import Triton

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS = tuple(2**i for i in range(9))
TOKENS = tuple(2**i for i in range(3, 15))
IGNORED_FIELDS = "ignored_fields"
"""What a request's fields in the log call its unknown fields."""


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

    def watch(self, state: "State") -> None:
        """Have the state of the gateway told too."""
        self._registry.register(state)

    def route(self, path: str) -> str:
        """What a path is counted as."""
        if path in self._paths:
            return path
        return next((template for template, pattern in self._templates if pattern.fullmatch(path)), "other")

    def count(self, route: str, status: int, seconds: float, stages: Stages, noted: Mapping[str, Any]) -> None:
        """Count a request that is over.

        Args:
            route: of its path.
            status: of its answer; 0 where there was none.
            seconds: it took.
            stages: where they went.
            noted: its fields in the log.
        """
        model = noted.get("model", "")
        self._requests(route, model, str(status)).inc()
        self._seconds(route).observe(seconds)
        for stage, took in stages.times:
            self._stages(stage, model).observe(took)
        for tower, rows, tokens in stages.parts:
            self._part_rows(tower).observe(rows)
            self._part_tokens(tower).observe(tokens)
        if "error" in noted:
            self._errors(model, noted["error"]).inc()
        if IGNORED_FIELDS in noted:
            self._ignored(route).inc(len(noted[IGNORED_FIELDS]))
        for name, counter in (("inputs", self._inputs), ("tokens", self._tokens), ("images", self._images)):
            if noted.get(name):
                counter(model).inc(noted[name])

    def text(self) -> bytes:
        """All of it, as Prometheus reads it (prometheus.io/docs/instrumenting/exposition_formats)."""
        return generate_latest(self._registry)


class State(Collector):
    """How the gateway is, at the moment it is asked."""

    def __init__(self, triton: Triton, catalog: Catalog, lines: Lines, monitor: Monitor, drain: Drain) -> None:
        self._triton = triton
        self._catalog = catalog
        self._lines = lines
        self._monitor = monitor
        self._drain = drain

    def collect(self) -> Iterator[Metric]:
        """Look."""
        towers = [tower for model in self._catalog.models for tower in model.towers]
        lines = {tower.triton_name: self._lines.of(tower.triton_name) for tower in towers}
        ready = {tower.triton_name: self._monitor.is_well(tower) for tower in towers}
        yield _gauge("info", "Of the gateway.", "version", {__version__: 1})
        yield GaugeMetricFamily("conch_ready", "Whether all is well.", self._monitor.problem() is None)
        yield GaugeMetricFamily("conch_requests_under_way", "Not answered yet.", self._drain.under_way)
        yield _gauge("triton_up", "Whether a Triton answers.", "server", self._triton.live())
        yield _gauge("model_ready", "Whether a model has answered lately.", "model", ready)
        waiting = {name: line.waiting for name, line in lines.items()}
        yield _gauge("waiting_tokens", "Admitted, and not at Triton yet.", "model", waiting)
        under_way = {name: line.under_way for name, line in lines.items()}
        yield _gauge("under_way_tokens", "At Triton.", "model", under_way)
        rates = {name: line.rate for name, line in lines.items()}
        yield _gauge("tokens_per_second", "What a model does while it has work; 0: not known yet.", "model", rates)


def _gauge(name: str, documentation: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"conch_{name}", documentation, labels=[label])
    for value_of, value in values.items():
        family.add_metric([value_of], value)
    return family
