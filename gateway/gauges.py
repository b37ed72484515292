"""The gateway's state as Prometheus gauges, read at the moment of each scrape."""

from collections.abc import Iterator, Mapping

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway import __version__
from gateway.catalog import Catalog
from gateway.drain import Drain
from gateway.health import Monitor
from gateway.scheduling.admission import Queues
from gateway.triton import Triton


class Gauges(Collector):
    def __init__(self, triton: Triton, catalog: Catalog, queues: Queues, monitor: Monitor, drain: Drain) -> None:
        self._triton = triton
        self._catalog = catalog
        self._queues = queues
        self._monitor = monitor
        self._drain = drain

    def collect(self) -> Iterator[Metric]:
        triton_models = self._catalog.triton_models
        queues = {
            triton_model.triton_name: self._queues.get(triton_model.triton_name) for triton_model in triton_models
        }
        ready = {triton_model.triton_name: self._monitor.is_ready(triton_model) for triton_model in triton_models}
        yield _gauge("info", "Version of the gateway.", "version", {__version__: 1})
        yield GaugeMetricFamily("conch_ready", "1 if the gateway is ready.", self._monitor.problem() is None)
        yield GaugeMetricFamily("conch_requests_in_flight", "Requests in flight.", self._drain.in_flight)
        yield _gauge("triton_up", "1 if a Triton server answers.", "server", self._triton.live())
        yield _gauge("model_ready", "1 if a model has answered recently.", "model", ready)
        waiting = {name: queue.waiting for name, queue in queues.items()}
        yield _gauge("waiting_tokens", "Tokens admitted and not yet sent to Triton.", "model", waiting)
        in_flight = {name: queue.in_flight for name, queue in queues.items()}
        yield _gauge("in_flight_tokens", "Tokens being computed by Triton.", "model", in_flight)
        rates = {name: queue.rate.per_second for name, queue in queues.items()}
        yield _gauge("tokens_per_second", "Throughput of a model under load; 0 if not known yet.", "model", rates)


def _gauge(name: str, documentation: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"conch_{name}", documentation, labels=[label])
    for value_of, value in values.items():
        family.add_metric([value_of], value)
    return family
