import gzip

import httpx2
import pytest

from gateway.routes.http import MAX_VALUES


def test_body_over_the_limit_is_413_by_its_declared_length(client: httpx2.Client) -> None:
    response = client.post("/v1/embeddings", content=b" " * (32 * 2**20 + 1))
    assert response.status_code == 413
    assert response.json()["error"]["message"] == "the body is over 33554432 bytes"


def test_body_over_the_limit_is_413_when_no_length_is_declared(client: httpx2.Client) -> None:
    response = client.post("/v1/embeddings", content=(b" " * 2**20 for _ in range(40)))
    assert response.status_code == 413


@pytest.mark.parametrize("value", [b"{}", b"[]", b"7", b'{"text": "a,b"}'])
def test_body_of_more_values_than_a_request_can_have_is_413(client: httpx2.Client, value: bytes) -> None:
    response = client.post("/v1/embeddings", content=b'{"input": [' + b",".join([value] * (MAX_VALUES + 2)) + b"]}")
    assert response.status_code == 413
    assert response.json()["error"]["message"] == f"the body holds over {MAX_VALUES} values"


def test_commas_in_texts_are_no_values(client: httpx2.Client) -> None:
    text = '",\\' * MAX_VALUES
    response = client.post("/v1/embeddings", json={"input": text, "truncate": True})
    assert response.status_code == 200


def test_compressed_body_is_refused(client: httpx2.Client) -> None:
    compressed = gzip.compress(b'{"input": "a"}')
    response = client.post("/v1/embeddings", content=compressed, headers={"content-encoding": "gzip"})
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "content-encoding is gzip; send the body as it is"


@pytest.mark.parametrize("text", [b'\\"' * 500_000, b"word, " * 500_000])
def test_many_commas_in_texts_are_no_values_and_take_no_time_to_tell(client: httpx2.Client, text: bytes) -> None:
    whole = b'{"truncate": true, "input": "%s%s"}' % (b"," * 311_000, text)
    assert client.post("/v1/embeddings", content=whole).status_code == 200
    assert client.post("/v1/embeddings", content=whole[:-2]).status_code == 400
