import time

import httpx2
import pytest


def test_unknown_path_is_404_in_the_common_body(client: httpx2.Client) -> None:
    for path in ("/pages", "/v1", "/v1/nothing", "/v1/embeddings/", "/health/live/", "/embed/"):
        response = client.get(path)
        assert response.status_code == 404
        assert response.json() == {
            "error": {
                "message": f"there is no {path}; see /openapi.json",
                "type": "invalid_request_error",
                "param": None,
                "code": "not_found",
            },
            "detail": f"there is no {path}; see /openapi.json",
        }


def test_wrong_method_is_405_and_lists_the_allowed_ones(client: httpx2.Client) -> None:
    response = client.get("/v1/embeddings")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert response.json()["error"]["message"] == "/v1/embeddings does not support GET"


@pytest.mark.parametrize(
    ("method", "path", "allow", "fields"),
    [
        ("GET", "/v1/tokenize", "POST", {"id", "message"}),
        ("PUT", "/v1/files", "GET, HEAD, POST", {"error", "detail"}),
        ("DELETE", "/v1/ranking", "POST", {"error", "detail"}),
        ("GET", "/embed", "POST", {"error", "error_type"}),
        ("GET", "/api/v1/services/rerank/text-rerank/text-rerank", "POST", {"code", "message", "request_id"}),
        ("POST", "/health", "GET, HEAD", {"error", "detail"}),
    ],
)
def test_wrong_method_is_405_in_every_dialect(
    client: httpx2.Client, method: str, path: str, allow: str, fields: set[str]
) -> None:
    response = client.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allow)
    assert response.json().keys() == fields


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("nan", 502, "inference_failed"),
        ("short", 502, "inference_failed"),
        ("narrow", 502, "inference_failed"),
        ("raising", 502, "inference_failed"),
        ("slow", 504, "deadline_exceeded"),
    ],
)
def test_failing_model_is_502(odd_client: httpx2.Client, model: str, status: int, code: str) -> None:
    response = odd_client.post("/v1/embeddings", json={"input": "a", "model": model})
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert "secret" not in response.text


def test_deadline_applies_to_the_whole_request(odd_client: httpx2.Client) -> None:
    started = time.monotonic()
    response = odd_client.post("/v1/embeddings", json={"input": ["a b"] * 1000, "model": "slow"})
    assert response.status_code == 504
    assert response.json()["error"]["message"] == "no response within 2 s"
    assert time.monotonic() - started < 4


def test_quoted_names_are_shortened(client: httpx2.Client) -> None:
    error = client.post("/v1/embeddings", json={"x" * 100_000: 1}).json()["error"]
    assert len(error["message"]) < 600
    assert error["param"] == "input"


def test_full_queue_is_429_with_retry_after(odd_client: httpx2.Client) -> None:
    # One row runs, one waits, and the queue holds no more: of a request of twenty rows most are turned away.
    response = odd_client.post("/v1/embeddings", json={"input": ["a b c"] * 20, "model": "queueing"})
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"]["message"] == "the queue of model 'queueing' is full; try again later"
