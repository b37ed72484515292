from typing import Any

import httpx2
import pytest

MESSAGES = [{"role": "user", "content": "a conch"}]


def told(client: httpx2.Client, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """The status and the answer, without what differs between requests."""
    response = client.post(path, json=body)
    answer = response.json()
    return response.status_code, {name: answer[name] for name in answer.keys() - {"id", "created"}}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": ["a conch"], "model": "bucketed", "encoding_format": "base64"}),
        ("/v1/embeddings", {"messages": MESSAGES, "model": "bucketed"}),
        ("/v1/rerank", {"query": "sea", "documents": ["a conch"], "model": "public-score", "use_activation": False}),
        ("/score", {"queries": "sea", "documents": "a conch", "model": "public-score"}),
        ("/score", {"text_1": "sea", "text_2": ["a conch"], "model": "public-score"}),
        ("/classify", {"input": "a conch", "model": "two-labels"}),
        ("/pooling", {"input": "a conch", "model": "two-labels", "task": "classify"}),
        ("/pooling", {"input": "a conch", "model": "every-output", "task": "token_embed"}),
        ("/v1/embeddings", {"input": "a conch", "model": "unknown"}),
        ("/v1/embeddings", {"input": "a conch", "model": 1}),
        ("/v1/embeddings", {}),
    ],
)
def test_answer_is_that_of_the_path_that_the_request_is_for(
    odd_client: httpx2.Client, path: str, body: dict[str, Any]
) -> None:
    assert told(odd_client, "/invocations", body) == told(odd_client, path, body)


def test_input_goes_to_pooling_if_the_model_has_only_token_vectors(client: httpx2.Client) -> None:
    body = {"input": "a conch", "model": "minilm-late-interaction"}
    answer = client.post("/invocations", json=body).json()
    assert answer["data"][0]["object"] == "pooling"


def test_body_must_be_an_object(client: httpx2.Client) -> None:
    response = client.post("/invocations", json=[1])
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")
