"""What the autoscalers of kubernetes/ ask Prometheus for, while there is much to do and when there is nothing."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from tests.observability.conftest import Prometheus
from tests.serving import Server
from tests.waiting import eventually

COMPONENTS = Path("kubernetes/components")
OURS = 'job=~"conch|triton"'
"""What our Prometheus tells the series by that one in a cluster finds by the namespace."""


@dataclass(frozen=True)
class Metric:
    expression: str
    target: float
    """Of one pod."""


def read(path: str) -> Any:
    return yaml.safe_load((COMPONENTS / path).read_text())


def local(expression: str) -> str:
    """An expression as it is asked here, where scrapes are more frequent too."""
    for given, ours in (
        ("<<.LabelMatchers>>", OURS),
        ('namespace="conch"', OURS),
        ("<<.GroupBy>>", "instance"),
        ("by(pod)", "by(instance)"),
        ("[1m]", "[5s]"),
    ):
        expression = expression.replace(given, ours)
    return expression


def quantity(text: str) -> float:
    return float(text.removesuffix("m")) / (1000 if text.endswith("m") else 1)


def of_adapter() -> dict[str, Metric]:
    rules = read("hpa/adapter.yaml")
    expressions = {rule["name"]["as"]: rule["metricsQuery"] for rule in rules["rules"] + rules["externalRules"]}
    found = {}
    for metric in read("hpa/hpa.yaml")["spec"]["metrics"]:
        what = metric[metric["type"].lower()]
        target = what["target"].get("value") or what["target"]["averageValue"]
        found[what["metric"]["name"]] = Metric(expressions[what["metric"]["name"]], quantity(target))
    return found


def of_keda() -> dict[str, Metric]:
    triggers = read("keda/scaled-object.yaml")["spec"]["triggers"]
    return {one["name"]: Metric(one["metadata"]["query"], float(one["metadata"]["threshold"])) for one in triggers}


LOADS = {  # clients, and the texts and words of their requests
    "conch_work_seconds": (8, 256, 30),
    "triton_queue_ratio": (8, 256, 30),
    "triton_pending_requests": (96, 1, 5),
}


@contextmanager
def load(server: Server, clients: int, texts: int, words: int) -> Iterator[None]:
    stop = threading.Event()

    def send() -> None:
        with httpx2.Client(base_url=server.url, timeout=110) as client:
            while not stop.is_set():
                client.post("/v1/embeddings", json={"input": ["word " * words] * texts})

    threads = [threading.Thread(target=send) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_both_autoscalers_look_at_the_same() -> None:
    assert {name: metric.target for name, metric in of_adapter().items()} == {
        name: metric.target for name, metric in of_keda().items()
    }
    assert set(of_adapter()) == set(LOADS)


@pytest.mark.parametrize("name", LOADS)
def test_metric_asks_for_more_pods_under_load_and_for_none_without(
    server: Server, prometheus: Prometheus, name: str
) -> None:
    metrics = (of_adapter()[name], of_keda()[name])

    def pods() -> list[float]:
        """Where one is running: the autoscaler rounds up what it has times the value by the target."""
        found = []
        for metric in metrics:
            (series,) = prometheus.ask("query", query=local(metric.expression))["result"]
            found.append(float(series["value"][1]) / metric.target)
        return found

    def wait_until(*, many: bool) -> None:
        # It tolerates a tenth.
        eventually(lambda: all((value > 1.1) == many for value in pods()), lambda: f"other number: {pods()}")

    prometheus.wait_for('up{job="conch"} == 1 and on() nv_inference_pending_request_count{job="triton"} >= 0')
    wait_until(many=False)
    with load(server, *LOADS[name]):
        wait_until(many=True)
    wait_until(many=False)
