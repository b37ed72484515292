"""What browsers are told about pages of other origins."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.serving import gateway_client

PAGE, OTHER = "https://app.example", "https://evil.example"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
EXPOSED = (
    "x-request-id",
    "x-conch-ignored-fields",
    "retry-after",
    "x-ratelimit-remaining-tokens",
    "x-compute-tokens",
    "x-total-time",
    "x-queue-time",
)


@pytest.fixture(scope="module")
def listed(repository: Path) -> Iterator[httpx2.Client]:
    """A gateway with keys that pages of PAGE may use, and that refuses unknown fields."""
    settings = {"GATEWAY_API_KEYS": "right", "GATEWAY_CORS_ORIGINS": PAGE, "GATEWAY_UNKNOWN_FIELDS": "refuse"}
    with gateway_client(repository, **settings) as client:
        yield client


@pytest.fixture(scope="module")
def open_to_all(repository: Path) -> Iterator[httpx2.Client]:
    """A gateway without keys that any page may use."""
    with gateway_client(repository, GATEWAY_CORS_ORIGINS="*") as client:
        yield client


def test_nothing_is_allowed_by_default(locked: httpx2.Client) -> None:
    preflight = locked.options("/v1/embeddings", headers={"origin": PAGE, **PREFLIGHT})
    answer = locked.get("/v1/models", headers={"origin": PAGE, "authorization": "Bearer right"})
    for response in (preflight, answer):
        assert not [name for name in response.headers if name.startswith("access-control")]
    assert (preflight.status_code, answer.status_code) == (401, 200)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v2/embed", "/embed", "/openai/v1/embeddings"])
def test_preflight_needs_no_key(listed: httpx2.Client, path: str) -> None:
    response = listed.options(path, headers={"origin": PAGE, **PREFLIGHT})
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == PAGE
    assert response.headers["access-control-allow-credentials"] == "true"
    assert "POST" in response.headers["access-control-allow-methods"]
    assert "authorization" in response.headers["access-control-allow-headers"]
    assert "Origin" in response.headers["vary"]
    assert "x-request-id" in response.headers


def test_other_origins_get_no_cors_headers(listed: httpx2.Client) -> None:
    preflight = listed.options("/v1/embeddings", headers={"origin": OTHER, **PREFLIGHT})
    answer = listed.get("/v1/models", headers={"origin": OTHER, "authorization": "Bearer right"})
    assert (preflight.status_code, answer.status_code) == (400, 200)
    for response in (preflight, answer):
        assert "access-control-allow-origin" not in response.headers
        assert "Origin" in response.headers["vary"]


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, {"input": "a"}, 401),
        ({"authorization": "Bearer right"}, {"input": 1.5}, 400),
    ],
)
def test_errors_can_be_read(
    listed: httpx2.Client, headers: dict[str, str], body: dict[str, object], status: int
) -> None:
    response = listed.post("/v1/embeddings", json=body, headers={"origin": PAGE, **headers})
    assert response.status_code == status
    assert response.headers["access-control-allow-origin"] == PAGE
    assert set(EXPOSED) <= set(response.headers["access-control-expose-headers"].split(", "))


def test_unknown_fields_are_errors_if_configured(listed: httpx2.Client) -> None:
    for body, name in (
        ({"input": "a", "drop_params": True}, "drop_params"),
        ({"input": ["a", {"text": "b", "id": 1}]}, "input[1].id"),
        ({"input": "a", "max_chunks_per_doc": None}, "max_chunks_per_doc"),
    ):
        response = listed.post("/v1/embeddings", json=body, headers={"authorization": "Bearer right"})
        assert response.status_code == 400
        assert response.json()["error"] == {
            "message": f"unknown field {name!r}",
            "type": "invalid_request_error",
            "param": name,
            "code": None,
        }


def test_long_names_of_unknown_fields_are_shortened(listed: httpx2.Client) -> None:
    body = {"input": "a", "b" * 1000: 1}
    error = listed.post("/v1/embeddings", json=body, headers={"authorization": "Bearer right"}).json()["error"]
    assert error["message"] == f"unknown field '{'b' * 200}'..."


def test_unknown_fields_are_errors_on_teis_paths_too(listed: httpx2.Client) -> None:
    body = {"inputs": {"source_sentence": "a", "sentences": ["b"]}, "parameters": {"colour": 1}}
    response = listed.post("/similarity", json=body, headers={"authorization": "Bearer right"})
    assert response.status_code == 400
    assert response.json() == {"error": "unknown field 'parameters.colour'", "error_type": "Validation"}


def test_all_origins_are_allowed_without_credentials(open_to_all: httpx2.Client) -> None:
    foreign = {"origin": OTHER, "sec-fetch-site": "cross-site"}
    preflight = open_to_all.options("/v1/embeddings", headers={**foreign, **PREFLIGHT})
    answer = open_to_all.get("/v1/models", headers=foreign)
    assert (preflight.status_code, answer.status_code) == (200, 200)
    for response in (preflight, answer):
        assert response.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in response.headers
    assert open_to_all.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
