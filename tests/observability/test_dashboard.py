import base64
import json
import math
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from loadtest.tools.pictures import file, scene
from tests.observability.conftest import Prometheus
from tests.waiting import eventually

DASHBOARD: dict[str, Any] = json.loads(Path("observability/dashboard.json").read_text())
PANELS: dict[str, dict[str, Any]] = {panel["title"]: panel for panel in DASHBOARD["panels"] if panel["type"] != "row"}
OF_GPUS = {"Memory used on GPUs"}
"""The panels that are empty where there is no GPU."""
TEXTS = [f"text {i} of the traffic that the dashboard is to show" for i in range(64)]


@pytest.fixture(scope="module")
def watched(client: httpx2.Client, prometheus: Prometheus) -> Prometheus:
    """Prometheus, when every kind of traffic has been sent until every panel shows something."""
    prometheus.wait_for('up{job="conch"} == 1 and on() up{job="triton"} == 1')
    image = base64.b64encode(file(scene(64, 64, 1), "PNG")).decode()

    def send_and_look() -> bool:
        for body in (
            {"input": TEXTS},
            {"input": ["a text", {"image": image}], "model": "minilm-pictogram"},
            {"input": "a", "model": "no such model"},
        ):
            client.post("/v1/embeddings", json=body)
        client.post("/v1/rerank", json={"query": "what is shown", "documents": TEXTS})
        return not unshown(prometheus)

    eventually(send_and_look, lambda: f"figures of {unshown(prometheus)}")
    return prometheus


def unshown(prometheus: Prometheus) -> list[str]:
    """Titles of panels that show nothing yet."""
    return [
        title
        for title, panel in PANELS.items()
        if title not in OF_GPUS and not all(figures(prometheus, one) for one in expressions(panel))
    ]


def figures(prometheus: Prometheus, expression: str) -> list[float]:
    values = [float(series["value"][1]) for series in prometheus.ask("query", query=expression)["result"]]
    return [value for value in values if math.isfinite(value)]


def expressions(panel: dict[str, Any]) -> list[str]:
    values = {"$__rate_interval": "10s", "$model": ".*"}
    found = []
    for target in panel["targets"]:
        expression = target["expr"]
        for name, value in values.items():
            expression = expression.replace(name, value)
        found.append(expression)
    return found


@pytest.mark.parametrize("title", PANELS)
def test_panel_shows_something(watched: Prometheus, title: str) -> None:
    for expression in expressions(PANELS[title]):
        assert bool(figures(watched, expression)) == (title not in OF_GPUS), expression


def test_every_metric_that_is_asked_for_is_there(watched: Prometheus) -> None:
    rules = yaml.safe_load(Path("observability/alerts.yml").read_text())["groups"][0]["rules"]
    adapter = yaml.safe_load(Path("kubernetes/components/hpa/adapter.yaml").read_text())
    keda = yaml.safe_load(Path("kubernetes/components/keda/scaled-object.yaml").read_text())
    asked = [rule["expr"] for rule in rules]
    asked += [rule["metricsQuery"] for rule in adapter["rules"] + adapter["externalRules"]]
    asked += [trigger["metadata"]["query"] for trigger in keda["spec"]["triggers"]]
    asked += [target["expr"] for panel in PANELS.values() for target in panel["targets"]]
    names = {name for expression in asked for name in re.findall(r"\b(?:conch|nv|process)_\w+", expression)}
    assert names <= set(watched.ask("label/__name__/values"))


def test_panels_say_what_was_sent(watched: Prometheus) -> None:
    def total(expression: str) -> float:
        return float(watched.ask("query", query=expression)["result"][0]["value"][1])

    ours = '{model="all-minilm-l6-v2", path="/v1/embeddings", status="200"}'
    assert total(f"sum(conch_requests_total{ours})") >= 1
    assert total('sum(conch_request_inputs_total{model="all-minilm-l6-v2"})') >= len(TEXTS)
    assert total('sum(conch_errors_total{type="ModelNotFound"})') >= 1
    assert total('sum(conch_request_images_total{model="minilm-pictogram"})') >= 1


def test_models_to_choose_from_are_those_served(watched: Prometheus) -> None:
    query = next(one for one in DASHBOARD["templating"]["list"] if one["name"] == "model")["query"]["query"]
    selector = query.removeprefix("label_values(").rsplit(",", 1)[0]
    result = watched.ask("query", query=f"group by(model) ({selector})")["result"]
    assert {"all-minilm-l6-v2", "minilm-pictogram", "minilm-late-interaction"} <= {
        series["metric"].get("model") for series in result
    }


def test_alerts_are_loaded_and_healthy(watched: Prometheus) -> None:
    (group,) = watched.ask("rules")["groups"]
    assert {rule["health"] for rule in group["rules"]} == {"ok"}
