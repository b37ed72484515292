import base64
import os
import re
import resource

import httpx2
import pytest

from gateway.board import Board
from gateway.telemetry.metrics import Gauge, Metrics
from gateway.telemetry.record import RequestRecord
from gateway.telemetry.timings import Stage, Timings, TritonCall
from loadtest.tools.pictures import file, scene
from tests.serving import Server


def value(text: str, name: str, **labels: str) -> float:
    """Of a sample with these labels; 0 where there is none."""
    pairs = ",".join(f'{label}="{labels[label]}"' for label in sorted(labels))
    found = re.search(rf"^{re.escape(f'{name}{{{pairs}}}' if pairs else name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.fixture
def metrics() -> Metrics:
    return Metrics({"/v1/embeddings", "/v1/models/{id}", "/models/{id}", "/openai/deployments/{model}/embeddings"})


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v1/embeddings", "/v1/embeddings"),
        ("/v1/embeddings/", "other"),
        ("/v1/models/a/b", "/v1/models/{id}"),
        ("/models/a", "/models/{id}"),
        ("/openai/deployments/a/b/embeddings", "/openai/deployments/{model}/embeddings"),
        ("/openai/deployments/a/chat", "other"),
        ("/wp-login.php", "other"),
    ],
)
def test_unknown_paths_have_one_label(metrics: Metrics, path: str, route: str) -> None:
    assert metrics.route(path) == route


def test_metrics_agree_with_the_log_line(metrics: Metrics) -> None:
    record = RequestRecord("id", "POST", "/", "other", model="m", status=429, duration_s=0.5, error="Overloaded")
    record.inputs, record.tokens, record.images, record.ignored_fields = 3, 40, 1, ["a", "b"]
    metrics.count(record)
    text = metrics.text().decode()
    assert value(text, "conch_requests_total", model="m", path="other", status="429") == 1
    assert value(text, "conch_errors_total", model="m", type="Overloaded") == 1
    assert value(text, "conch_request_inputs_total", model="m") == 3
    assert value(text, "conch_request_tokens_total", model="m") == 40
    assert value(text, "conch_request_images_total", model="m") == 1
    assert value(text, "conch_ignored_fields_total", path="other") == 2
    assert value(text, "conch_request_duration_seconds_sum", path="other") == 0.5


def test_rows_of_the_cache_are_counted(metrics: Metrics) -> None:
    assert b"conch_cache_evictions_total 0.0" in metrics.text()
    timings = Timings(cache_hits=3, cache_misses=2)
    for inputs in (5, None):  # a request that never got so far has no inputs
        metrics.count(RequestRecord("id", "POST", "/", "other", timings, model="m", inputs=inputs, status=200))
    metrics.count_evictions(4)
    text = metrics.text().decode()
    assert value(text, "conch_cache_hits_total", model="m") == 3
    assert value(text, "conch_cache_misses_total", model="m") == 2
    assert value(text, "conch_cache_evictions_total") == 4


def test_stages_and_calls_are_counted_separately(metrics: Metrics) -> None:
    times: list[tuple[Stage, float]] = [("queue", 0.25), ("queue", 0.5), ("inference", 2.0)]
    timings = Timings(times=times, calls=[TritonCall("tower", 4, 100)])
    metrics.count(RequestRecord("id", "POST", "/", "other", timings, model="m", status=200, duration_s=3.0))
    text = metrics.text().decode()
    assert value(text, "conch_stage_duration_seconds_sum", model="m", stage="queue") == 0.75
    assert value(text, "conch_stage_duration_seconds_count", model="m", stage="queue") == 2
    assert value(text, "conch_stage_duration_seconds_sum", model="m", stage="inference") == 2
    assert value(text, "conch_batch_rows_sum", model="tower") == 4
    assert value(text, "conch_batch_tokens_sum", model="tower") == 100


def test_largest_batches_are_told_apart(metrics: Metrics) -> None:
    timings = Timings(calls=[TritonCall("tower", 1024, 65_536), TritonCall("tower", 513, 32_769)])
    metrics.count(RequestRecord("id", "POST", "/", "other", timings, model="m", status=200, duration_s=1.0))
    text = metrics.text().decode()
    assert value(text, "conch_batch_rows_bucket", le="512.0", model="tower") == 0
    assert value(text, "conch_batch_rows_bucket", le="1024.0", model="tower") == 2
    assert value(text, "conch_batch_tokens_bucket", le="32768.0", model="tower") == 0
    assert value(text, "conch_batch_tokens_bucket", le="65536.0", model="tower") == 2


def worker(shared: Board, column: int, **state: float) -> Metrics:
    """A worker's metrics, with what it says of itself."""
    metrics = Metrics({"/v1/embeddings"}, Board(shared.workers, shared.file, column))
    metrics.watch(
        (
            Gauge("conch_ready", "Health.", "", min, lambda: {"": state["ready"]}),
            Gauge("conch_waiting_tokens", "Work.", "model", sum, lambda: {"m": state["waiting"]}),
        )
    )
    metrics.publish()
    return metrics


def test_any_worker_answers_for_all() -> None:
    shared = Board.create(2)
    first, second = worker(shared, 0, ready=1, waiting=2), worker(shared, 1, ready=0, waiting=3)
    record = RequestRecord("id", "POST", "/", "other", model="m", status=200, duration_s=0.5)
    for metrics in (first, second, second):
        metrics.count(record)
    for text in (first.text().decode(), second.text().decode()):
        assert value(text, "conch_requests_total", model="m", path="other", status="200") == 3
        assert value(text, "conch_request_duration_seconds_count", path="other") == 3
        assert value(text, "conch_request_duration_seconds_sum", path="other") == 1.5
        assert value(text, "conch_ready") == 0
        assert value(text, "conch_waiting_tokens", model="m") == 5
    shared.leave(1)
    text = first.text().decode()
    assert value(text, "conch_requests_total", model="m", path="other", status="200") == 3
    assert value(text, "conch_ready") == 1
    assert value(text, "conch_waiting_tokens", model="m") == 2
    cpu_s = value(text, "process_cpu_seconds_total")
    third = worker(shared, 1, ready=1, waiting=0)
    third.count(record)
    text = first.text().decode()
    assert value(text, "conch_requests_total", model="m", path="other", status="200") == 4
    assert value(text, "process_cpu_seconds_total") >= cpu_s
    os.close(shared.file)


def test_process_without_file_descriptors_keeps_its_last_numbers() -> None:
    metrics = Metrics(set())
    before = value(metrics.text().decode(), "process_cpu_seconds_total")
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, most))
    try:
        kept, begun = metrics.text().decode(), Metrics(set()).text().decode()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))
    assert value(kept, "process_cpu_seconds_total") == before
    assert value(kept, "process_max_fds") == soft
    assert "process_cpu_seconds_total 0.0" in begun
    assert "process_max_fds " not in begun.replace("# HELP process_max_fds ", "").replace("# TYPE process_max_fds ", "")


def test_models_that_are_gone_have_no_gauge() -> None:
    models = {"a": 1.0, "b": 1.0}
    metrics = Metrics(set())
    metrics.watch((Gauge("conch_model_ready", "Health.", "model", min, lambda: models),))
    assert value(metrics.text().decode(), "conch_model_ready", model="b") == 1
    del models["b"]
    text = metrics.text().decode()
    assert value(text, "conch_model_ready", model="a") == 1
    assert 'model="b"' not in text


def test_gauges_show_the_state_of_the_gateway(client: httpx2.Client) -> None:
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert value(answer.text, "conch_ready") == 1
    assert value(answer.text, "conch_model_ready", model="minilm-pictogram-image") == 1
    assert value(answer.text, "conch_in_flight_tokens", model="all-minilm-l6-v2") == 0


def test_requests_to_a_real_model_show_all_stages(client: httpx2.Client) -> None:
    def stages() -> dict[str, float]:
        text = client.get("/metrics").text
        return {
            stage: value(text, "conch_stage_duration_seconds_count", model="all-minilm-l6-v2", stage=stage)
            for stage in ("parse", "tokenize", "queue", "inference", "reply")
        }

    before = stages()
    client.post("/v1/embeddings", json={"input": "a", "model": "all-minilm-l6-v2"}).raise_for_status()
    assert {stage: count - before[stage] for stage, count in stages().items()} == dict.fromkeys(before, 1)


def test_image_model_shows_the_decoding_of_images(client: httpx2.Client) -> None:
    image = base64.b64encode(file(scene(64, 64, 1), "PNG")).decode()
    client.post("/v1/embeddings", json={"input": [{"image": image}], "model": "minilm-pictogram"}).raise_for_status()
    text = client.get("/metrics").text
    assert value(text, "conch_stage_duration_seconds_count", model="minilm-pictogram", stage="decode") >= 1
    assert value(text, "conch_request_images_total", model="minilm-pictogram") >= 1


def test_unknown_names_are_not_labels(client: httpx2.Client) -> None:
    client.post("/v1/embeddings", json={"input": "a", "model": "made up by a client"})
    client.get("/made/up/by/a/client")
    assert "made" not in client.get("/metrics").text


def test_scrapes_are_not_in_the_log(client: httpx2.Client, server: Server) -> None:
    client.get("/metrics", headers={"x-request-id": "a-scrape"})
    client.get("/v1/models", headers={"x-request-id": "after-it"})
    server.wait_for("after-it")
    assert not any("a-scrape" in line for line in server.lines)
