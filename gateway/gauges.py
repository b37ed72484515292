"""The gateway's state as Prometheus gauges."""

from collections.abc import Callable, Mapping, Sequence

from gateway import __version__
from gateway.board import LISTENS, Board
from gateway.cache import Cache
from gateway.catalog import Catalog
from gateway.drain import Drain
from gateway.health import Monitor
from gateway.scheduling.admission import Queue, Queues
from gateway.telemetry.metrics import IN_FLIGHT, Gauge
from gateway.triton import Triton


def gauges(
    triton: Triton,
    catalog: Catalog,
    queues: Queues,
    monitor: Monitor,
    drain: Drain,
    board: Board,
    cache: Cache | None = None,
) -> Sequence[Gauge]:
    """All gauges of a worker, which are read at the moment of a scrape, or every second for other workers' scrapes."""

    listens = board.row(LISTENS)

    def while_listening(health: Callable[[], Mapping[str, float]]) -> Callable[[], Mapping[str, float]]:
        """A worker that starts or is being replaced is no sign of bad health."""
        return lambda: health() if board.own[listens] == 1 else {}

    def ready() -> Mapping[str, float]:
        return {model.triton_name: monitor.is_ready(model) for model in catalog.triton_models}

    def of_queues(value: Callable[[Queue], float]) -> Callable[[], Mapping[str, float]]:
        return lambda: {model.triton_name: value(queues.get(model.triton_name)) for model in catalog.triton_models}

    return (
        Gauge("conch_info", "Version of the gateway.", "version", max, lambda: {__version__: 1}),
        Gauge(
            "conch_ready",
            "1 if the gateway is ready.",
            "",
            min,
            while_listening(lambda: {"": monitor.problem() is None}),
        ),
        Gauge(IN_FLIGHT, "Requests in flight.", "", sum, lambda: {"": drain.in_flight}),
        Gauge("conch_cache_bytes", "Memory of the cache in use.", "", sum, lambda: {"": cache.size if cache else 0}),
        Gauge("conch_triton_up", "1 if a Triton server answers.", "server", min, while_listening(triton.live)),
        Gauge("conch_model_ready", "1 if a model has answered recently.", "model", min, while_listening(ready)),
        Gauge(
            "conch_waiting_tokens",
            "Tokens admitted and not yet sent to Triton.",
            "model",
            sum,
            of_queues(lambda queue: queue.waiting),
        ),
        Gauge(
            "conch_in_flight_tokens",
            "Tokens being computed by Triton.",
            "model",
            sum,
            of_queues(lambda queue: queue.in_flight),
        ),
        Gauge(
            "conch_tokens_per_second",
            "Throughput of a model under load; 0 if not known yet.",
            "model",
            max,  # every worker measures what the model does for all
            of_queues(lambda queue: queue.rate.per_second),
        ),
    )
