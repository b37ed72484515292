from typing import Any

import httpx2
import numpy as np
import pytest

TEXTS = ["Brass is an alloy.", "A conch is a sea snail."]


def post(client: httpx2.Client, path: str, **body: Any) -> Any:
    response = client.post(path, json=body, headers={"x-request-id": "equal"})  # which some responses repeat
    assert response.status_code == 200, response.text
    return response.json()


def refused(client: httpx2.Client, **body: Any) -> dict[str, Any]:
    response = client.post("/embedding", json=body)
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


@pytest.mark.parametrize("field", ["content", "input"])
@pytest.mark.parametrize("given", ["a shell", [101, 1037, 5806, 102], ["a shell", [101, 1037, 102]]])
def test_vectors_are_those_of_v1(client: httpx2.Client, field: str, given: Any) -> None:
    for normalize, normalized in ((2, True), (-1, False), (None, True)):
        answer = post(client, "/embedding", **{field: given}, embd_normalize=normalize)
        expected = post(client, "/v1/embeddings", input=given, normalized=normalized)["data"]
        assert [one["index"] for one in answer] == [*range(len(expected))]
        for one, reference in zip(answer, expected, strict=True):
            (vector,) = one["embedding"]
            assert np.array(vector) == pytest.approx(np.array(reference["embedding"]), abs=1e-5)


def test_bad_requests_name_the_field(client: httpx2.Client) -> None:
    assert refused(client)["message"] == "content is required"
    assert refused(client, content=["a", 1])["param"] == "content[1]"
    assert refused(client, content="a", input="a")["message"].startswith("content and input have the same meaning")
    assert refused(client, content="sea " * 300)["param"] == "content"
    assert refused(client, content="a", embd_normalize=0)["message"] == (
        "embd_normalize is 0; supported are 2 (length 1) and -1 (as computed)"
    )
    assert client.post("/embedding", json={"content": "a", "model": "x"}).status_code == 404


def test_reranking_answers_in_the_format_of_the_body(client: httpx2.Client) -> None:
    for body in ({"documents": TEXTS}, {"texts": TEXTS, "return_text": True}):
        given = {"query": "sea shells", **body}
        assert post(client, "/reranking", **given) == post(client, "/rerank", **given)
