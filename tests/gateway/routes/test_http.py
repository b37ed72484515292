import gzip
import socket
from pathlib import Path

import httpx2
import pytest

from gateway.routes.large_json import MAX_CONTAINERS, MAX_NAMES, MAX_VALUES
from tests.serving import gateway_client
from tests.waiting import eventually


def test_body_over_the_limit_is_413_by_its_declared_length(client: httpx2.Client) -> None:
    response = client.post("/v1/embeddings", content=b" " * (32 * 2**20 + 1))
    assert response.status_code == 413
    assert response.json()["error"]["message"] == "the body exceeds 33554432 bytes"


def test_body_over_the_limit_is_413_when_no_length_is_declared(client: httpx2.Client) -> None:
    response = client.post("/v1/embeddings", content=(b" " * 2**20 for _ in range(40)))
    assert response.status_code == 413


@pytest.mark.parametrize("value", [b"7", b'"a,b"'])
def test_body_of_more_values_than_a_request_can_have_is_413(client: httpx2.Client, value: bytes) -> None:
    response = client.post("/v1/embeddings", content=b'{"input": [' + b",".join([value] * (MAX_VALUES + 2)) + b"]}")
    assert response.status_code == 413
    assert response.json()["error"]["message"] == f"the body has more than {MAX_VALUES} values"


@pytest.mark.parametrize("value", [b"{}", b"[]", b'{"text": "a,b"}'])
def test_body_of_more_lists_and_objects_than_a_request_can_have_is_413(client: httpx2.Client, value: bytes) -> None:
    response = client.post("/v1/embeddings", content=b'{"input": [' + b",".join([value] * (MAX_CONTAINERS + 1)) + b"]}")
    assert response.status_code == 413
    assert response.json()["error"]["message"] == f"the body has more than {MAX_CONTAINERS} lists and objects"


def test_body_of_more_fields_than_a_request_can_have_is_413(client: httpx2.Client) -> None:
    fields = b",".join(b'"%d": 0' % i for i in range(MAX_NAMES))
    response = client.post("/v1/embeddings", content=b'{"input": "a:b", %s}' % fields)
    assert response.status_code == 413
    assert response.json()["error"]["message"] == f"the body has more than {MAX_NAMES} fields"


def test_commas_in_texts_are_not_counted_as_values(client: httpx2.Client) -> None:
    text = '",\\' * MAX_VALUES
    response = client.post("/v1/embeddings", json={"input": text, "truncate": True})
    assert response.status_code == 200


def test_compressed_body_is_refused(client: httpx2.Client) -> None:
    compressed = gzip.compress(b'{"input": "a"}')
    response = client.post("/v1/embeddings", content=compressed, headers={"content-encoding": "gzip"})
    assert response.status_code == 415
    assert response.headers["accept-encoding"] == "identity"
    assert response.json()["error"]["message"] == "content-encoding gzip is not supported; send the body uncompressed"


@pytest.mark.parametrize("text", [b'\\"' * 500_000, b"word, " * 500_000])
def test_many_commas_in_texts_are_not_counted_and_cost_no_time(client: httpx2.Client, text: bytes) -> None:
    whole = b'{"truncate": true, "input": "%s%s"}' % (b"," * 311_000, text)
    assert client.post("/v1/embeddings", content=whole).status_code == 200
    assert client.post("/v1/embeddings", content=whole[:-2]).status_code == 400


def test_every_second_content_encoding_counts(client: httpx2.Client) -> None:
    headers = [("content-encoding", "identity"), ("content-encoding", "gzip")]
    response = client.post("/v1/embeddings", content=gzip.compress(b"{}"), headers=headers)
    assert response.status_code == 415


def test_half_a_surrogate_pair_is_read_as_a_replacement_character(client: httpx2.Client) -> None:
    answers = [
        client.post("/v1/embeddings", content=b'{"input": "a %s b"}' % written, headers={}).json()
        for written in (b"\\ud83d", b"\\ufffd")
    ]
    assert answers[0]["data"] == answers[1]["data"]


def test_large_documents_come_back_as_they_were(client: httpx2.Client) -> None:
    documents = [f'{i} "quoted" 漢字 😀 ' * 2000 for i in range(40)]
    response = client.post("/v1/rerank", json={"query": "a", "documents": documents})
    assert response.status_code == 200
    results = response.json()["results"]
    assert sorted(result["index"] for result in results) == list(range(40))
    assert all(result["document"]["text"] == documents[result["index"]] for result in results)


def test_many_vectors_are_the_same_as_few(client: httpx2.Client) -> None:
    many = client.post("/v1/embeddings", json={"input": ["a", "b"] * 200}).json()["data"]
    few = client.post("/v1/embeddings", json={"input": ["a", "b"]}).json()["data"]
    assert [one["index"] for one in many] == list(range(400))
    for one in many:
        assert one["embedding"] == pytest.approx(few[one["index"] % 2]["embedding"], abs=1e-3)


def too_much(client: httpx2.Client) -> httpx2.Response | None:
    """The answer to half a megabyte, if there is no room for it."""
    response = client.post("/v1/embeddings", content=b" " * 500_000)
    return response if response.status_code == 429 else None


def test_bodies_share_a_limit(repository: Path) -> None:
    limits = {"GATEWAY_MAX_BODY_BYTES": "1000000", "GATEWAY_MAX_BODIES_BYTES": "1000000"}
    with gateway_client(repository, **limits) as client:
        head = b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-length: 900000\r\n\r\n"
        with socket.create_connection((client.base_url.host, client.base_url.port)) as first:
            first.sendall(head + b" " * 800_000)
            response = eventually(lambda: too_much(client), "429")
            assert response.headers["retry-after"] == "1"
            assert "reached the memory limit" in response.json()["error"]["message"]
            assert client.post("/v1/embeddings", content=b"{").status_code == 400
        eventually(lambda: too_much(client) is None, "room again")
