"""Floats as bytes, through /v1/embeddings and /pooling."""

import base64
import json
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

TEXTS = ["a conch is a sea snail", "brass"]
FORMS = [
    ("float32", "native", "<f4"),
    ("float32", "little", "<f4"),
    ("float32", "big", ">f4"),
    ("float16", "little", "<f2"),
    ("float16", "big", ">f2"),
]


def ask(client: httpx2.Client, path: str, **body: Any) -> httpx2.Response:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response


def vectors(client: httpx2.Client, texts: list[str]) -> NDArray[np.float64]:
    data = ask(client, "/v1/embeddings", input=texts).json()["data"]
    return np.array([item["embedding"] for item in data])


@pytest.mark.parametrize(("embed_dtype", "endianness", "form"), FORMS)
@pytest.mark.parametrize(("path", "more"), [("/v1/embeddings", {}), ("/pooling", {"task": "embed"})])
def test_base64_and_bytes_hold_the_type_and_order_that_is_asked_for(
    client: httpx2.Client, path: str, more: dict[str, Any], embed_dtype: str, endianness: str, form: str
) -> None:
    expected = pytest.approx(vectors(client, TEXTS), abs=1e-3)
    body = {"input": TEXTS, "embed_dtype": embed_dtype, "endianness": endianness, **more}
    data = ask(client, path, encoding_format="base64", **body).json()["data"]
    texts = [item["data" if path == "/pooling" else "embedding"] for item in data]
    assert np.array([np.frombuffer(base64.b64decode(text), form) for text in texts]) == expected
    packed = ask(client, path, encoding_format="bytes_only", **body)
    assert "metadata" not in packed.headers
    assert np.frombuffer(packed.content, form).reshape(2, 384) == expected


def test_bfloat16_is_that_of_torch(client: httpx2.Client) -> None:
    whole = ask(client, "/v1/embeddings", input=TEXTS, encoding_format="bytes_only", endianness="little").content
    half = ask(client, "/v1/embeddings", input=TEXTS, encoding_format="bytes_only", embed_dtype="bfloat16").content
    found = torch.frombuffer(bytearray(half), dtype=torch.bfloat16).float()
    assert found.numpy() == pytest.approx(np.frombuffer(whole, "<f4"), rel=2**-7, abs=1e-4)


def test_metadata_is_vllms(client: httpx2.Client) -> None:
    response = ask(client, "/v1/embeddings", input=TEXTS, encoding_format="bytes", embed_dtype="float16")
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-length"] == str(2 * 2 * 384)
    told = json.loads(response.headers["metadata"])
    assert isinstance(told.pop("created"), int)
    assert told.pop("usage")["prompt_tokens"] == 12
    item = {"embed_dtype": "float16", "endianness": "native", "shape": [384]}
    assert told == {
        "id": response.headers["x-request-id"],
        "model": "all-minilm-l6-v2",
        "data": [{"index": 0, "start": 0, "end": 768, **item}, {"index": 1, "start": 768, "end": 1536, **item}],
    }


def test_bytes_of_tokens_have_the_shape_of_each_text(odd_client: httpx2.Client) -> None:
    body = {"model": "every-output", "input": ["a conch", "brass"]}
    expected = [np.array(item["data"]) for item in ask(odd_client, "/pooling", **body).json()["data"]]
    response = ask(odd_client, "/pooling", encoding_format="bytes", **body)
    items = json.loads(response.headers["metadata"])["data"]
    assert [tuple(item["shape"]) for item in items] == [one.shape for one in expected]
    for item, one in zip(items, expected, strict=True):
        found = np.frombuffer(response.content[item["start"] : item["end"]], "<f4").reshape(one.shape)
        assert found == pytest.approx(one, abs=1e-6)


def test_bytes_of_labels_are_scores(odd_client: httpx2.Client) -> None:
    body = {"model": "two-labels", "input": ["a", "b"]}
    expected = np.array([item["data"] for item in ask(odd_client, "/pooling", **body).json()["data"]])
    packed = ask(odd_client, "/pooling", encoding_format="bytes_only", **body).content
    assert np.frombuffer(packed, "<f4").reshape(2, 2) == pytest.approx(expected)


def test_large_response_is_whole(client: httpx2.Client) -> None:
    texts = [f"conch {i}" for i in range(200)]  # more numbers than are written on the event loop
    response = ask(client, "/v1/embeddings", input=texts, encoding_format="bytes")
    items = json.loads(response.headers["metadata"])["data"]
    assert (len(items), items[-1]["end"]) == (200, len(response.content))
    found = np.frombuffer(response.content, "<f4").reshape(200, 384)
    assert found == pytest.approx(vectors(client, texts), abs=1e-3)
