"""Any body whatever: an answer, or an error of our own."""

import json
from collections.abc import Mapping

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.routes.decoding import decode
from gateway.routes.embeddings import EmbeddingRequest, read_inputs
from gateway.routes.rerank import RerankRequest

TEXTS = st.text() | st.sampled_from(
    [
        "\0",
        "a" * 100_000,
        "\ud800".encode("utf8", "surrogatepass").decode("utf8", "replace"),
        "\u202e\u0000\uffff",
        "é" * 5000,
    ]
)
NUMBERS = st.integers() | st.floats() | st.sampled_from([2**63, -(2**63) - 1, 10**400, 30521, 30522, -1, True])
FIELDS = st.sampled_from(
    ["text", "image", "input", "model", "query", "documents", "dimensions", "truncate", "embedding_type", "top_n", "a"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(FIELDS, inner, max_size=4),
    max_leaves=12,
)
BODIES = st.dictionaries(FIELDS, VALUES, max_size=6)
REAL = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(st.binary() | VALUES.map(lambda value: json.dumps(value).encode()))
def test_parser_raises_only_gateway_errors(body: bytes) -> None:
    for kind in (EmbeddingRequest, RerankRequest):
        try:
            parsed, _ = decode(body, kind)
            if isinstance(parsed, EmbeddingRequest):
                read_inputs(parsed.input or [], "any")
        except GatewayError:
            pass


def check(answer: httpx2.Response) -> None:
    if answer.status_code != httpx2.codes.OK:
        assert 400 <= answer.status_code < 500
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert len(answer.content) < 10_000  # twice the message, in which control characters are six bytes each


@REAL
@given(BODIES)
def test_any_body_for_embeddings_gets_a_response(client: httpx2.Client, body: Mapping[str, object]) -> None:
    check(client.post("/v1/embeddings", content=json.dumps(body).encode()))


@REAL
@given(BODIES)
def test_any_body_for_rerank_gets_a_response(client: httpx2.Client, body: Mapping[str, object]) -> None:
    check(client.post("/v1/rerank", content=json.dumps(body).encode()))


@REAL
@given(st.lists(VALUES, min_size=1, max_size=4))
def test_any_input_gets_a_response(client: httpx2.Client, given_input: list[object]) -> None:
    check(client.post("/v1/embeddings", content=json.dumps({"input": given_input, "truncate": True}).encode()))


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('{"input": "a\\u0000b"}', 200),
        ('{"input": "\\ud83d\\ude00"}', 200),
        ('{"input": "\\ud83d"}', 200),
        ('{"input": "\u202e\u2066 right to left"}', 200),
        ('{"input": [NaN]}', 400),
        ('{"input": [1e400]}', 400),
        ('{"input": [[101, 30521, 102]]}', 200),
        ('{"input": [[101, 30522, 102]]}', 400),
        ('{"input": [[-1]]}', 400),
        ('{"input": [[99999999999999999999]]}', 400),
        ('{"input": "a", "input": "b"}', 200),
        ('{"input": "a", "dimensions": 1e2}', 400),
        ('{"input": ' + "[" * 5000 + "]" * 5000 + "}", 400),
    ],
)
def test_extreme_inputs_get_a_vector_or_a_clear_error(client: httpx2.Client, body: str, status: int) -> None:
    answer = client.post("/v1/embeddings", content=body.encode())
    assert answer.status_code == status, answer.text
    check(answer)


def test_ten_megabytes_of_one_word_do_not_stall_others(client: httpx2.Client) -> None:
    answer = client.post("/v1/embeddings", json={"input": "a" * 10_000_000, "truncate": True})
    assert answer.status_code == httpx2.codes.OK
    assert answer.json()["usage"]["total_tokens"] <= 256
