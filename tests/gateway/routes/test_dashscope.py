from typing import Any

import httpx2
import pytest

TEXTS = ["Brass is an alloy.", "A conch is a sea snail.", "Snails eat leaves."]
QUERY = "sea shells"
PATH = "/api/v1/services/rerank/text-rerank/text-rerank"


def post(client: httpx2.Client, documents: list[Any], query: Any = QUERY, **parameters: Any) -> dict[str, Any]:
    body = {"input": {"query": query, "documents": documents}, "parameters": parameters}
    response = client.post(PATH, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert answer["request_id"] == response.headers["x-request-id"]
    return answer


def refused(client: httpx2.Client, body: Any, status: int = 400, code: str = "InvalidParameter") -> str:
    response = client.post(PATH, json=body)
    assert response.status_code == status, response.text
    error = response.json()
    assert set(error) == {"code", "message", "request_id"}
    assert error["code"] == code
    message: str = error["message"]
    return message


@pytest.mark.parametrize("query", [QUERY, {"text": QUERY}])
@pytest.mark.parametrize("documents", [TEXTS, [{"text": text} for text in TEXTS]])
def test_ranking_is_that_of_v1_rerank(client: httpx2.Client, query: Any, documents: list[Any]) -> None:
    expected = client.post("/v1/rerank", json={"query": QUERY, "documents": TEXTS}).json()
    answer = post(client, documents, query)
    assert set(answer) == {"output", "usage", "request_id"}
    results = answer["output"]["results"]
    assert [one["index"] for one in results] == [one["index"] for one in expected["results"]]
    scores = [one["relevance_score"] for one in expected["results"]]
    assert [one["relevance_score"] for one in results] == pytest.approx(scores, abs=1e-4)
    assert all(set(one) == {"index", "relevance_score"} for one in results)
    assert answer["usage"] == {"total_tokens": expected["usage"]["total_tokens"]}


def test_documents_are_returned_on_request(client: httpx2.Client) -> None:
    for documents in (TEXTS, [{"text": text} for text in TEXTS]):
        (best,) = post(client, documents, top_n=1, return_documents=True)["output"]["results"]
        assert (best["index"], best["document"]) == (1, {"text": TEXTS[1]})


def test_parameters_may_be_left_out_and_texts_are_truncated(client: httpx2.Client) -> None:
    given = {"query": "sea", "documents": ["sea " * 300]}
    expected = client.post("/v1/rerank", json=given).json()["results"]
    for body in ({"input": given}, {"input": given, "parameters": None}):
        (result,) = client.post(PATH, json=body).json()["output"]["results"]
        assert result["relevance_score"] == pytest.approx(expected[0]["relevance_score"], abs=1e-4)


def test_errors_are_in_dashscopes_form(client: httpx2.Client, locked: httpx2.Client) -> None:
    given = {"query": "a", "documents": ["b", {"text": ""}]}
    assert refused(client, {"input": given}) == "input.documents[1] has neither text nor image"
    assert refused(client, {"input": {"query": "a", "documents": []}}).startswith("input.documents: Expected `array`")
    assert refused(client, {"input": {"query": "a", "documents": [{"image": "b"}]}}).startswith(
        "input.documents[0].image is an image, but model 'minilm-late-interaction' accepts only text"
    )
    assert refused(client, {"input": {"query": "a", "documents": [{"video": "b"}]}}) == (
        "input.documents[0].video: only text and images are supported"
    )
    instructed = {"input": {"query": "a", "documents": ["b"]}, "parameters": {"instruct": "c"}}
    assert refused(client, instructed).endswith("does not support instruction")
    unknown = {"model": "qwen3-rerank", "input": {"query": "a", "documents": ["b"]}}
    assert "there is no model 'qwen3-rerank'" in refused(client, unknown, 404, "ModelNotFound")
    assert refused(locked, unknown, 401, "InvalidApiKey").startswith("an API key is required")
