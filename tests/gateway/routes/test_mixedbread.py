from typing import Any

import httpx2
import pytest

TEXTS = ["Brass is an alloy.", "A conch is a sea snail.", "Snails eat leaves."]
QUERY = "sea shells"
EQUAL = {"x-request-id": "equal"}
"""The responses of /v1/rerank repeat it."""


def post(client: httpx2.Client, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/reranking", json={"query": QUERY, **body}, headers=EQUAL)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def refused(client: httpx2.Client, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/reranking", json={"query": QUERY, **body})
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def reference(client: httpx2.Client, **body: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.post("/v1/rerank", json={"query": QUERY, **body}, headers=EQUAL).json()
    return answer


def test_ranking_is_that_of_v1_rerank(client: httpx2.Client) -> None:
    expected = reference(client, documents=TEXTS)
    answer = post(client, input=TEXTS, model="minilm-late-interaction")
    assert set(answer) == {"object", "model", "data", "top_k", "return_input", "usage"}
    assert [one["index"] for one in answer["data"]] == [one["index"] for one in expected["results"]]
    scores = [one["relevance_score"] for one in expected["results"]]
    assert [one["score"] for one in answer["data"]] == pytest.approx(scores, abs=1e-4)
    assert all(set(one) == {"index", "score", "object"} for one in answer["data"])
    assert (answer["top_k"], answer["return_input"]) == (3, False)
    assert answer["usage"]["total_tokens"] == expected["usage"]["total_tokens"]


def test_inputs_are_returned_on_request(client: httpx2.Client) -> None:
    given = [{"title": "Brass", "text": TEXTS[0], "year": 1}, TEXTS[1]]
    answer = post(client, input=given, return_input=True, top_k=1)
    assert [(one["index"], one["input"]) for one in answer["data"]] == [(1, TEXTS[1])]
    assert answer["return_input"] is True
    (other,) = post(client, input=given[:1], return_input=True)["data"]
    assert other["input"] == given[0]


def test_fields_of_objects_are_ranked_on(client: httpx2.Client) -> None:
    given = [{"title": title, "text": text} for title, text in zip("abc", TEXTS, strict=True)]
    fields = ["text", "title", "text"]
    answer, expected = (
        post(client, input=given, rank_fields=fields),
        reference(client, documents=given, rank_fields=fields),
    )
    scores = [one["relevance_score"] for one in expected["results"]]
    assert [one["score"] for one in answer["data"]] == pytest.approx(scores, abs=1e-4)
    assert refused(client, input=["a", {"title": "b"}])["message"] == "input[1].text is required"
    assert refused(client, input=[{"text": 1}])["param"] == "input[0].text"


def test_long_texts_are_truncated(client: httpx2.Client) -> None:
    (expected,) = reference(client, documents=["sea " * 300])["results"]
    (rank,) = post(client, input=["sea " * 300])["data"]
    assert rank["score"] == pytest.approx(expected["relevance_score"], abs=1e-4)


def test_bad_requests_name_the_field(client: httpx2.Client) -> None:
    assert refused(client)["message"] == "input is required"
    assert refused(client, input=TEXTS, rewrite_query=True)["message"].startswith("rewrite_query: queries are ranked")
    assert refused(client, input=[])["param"] == "input"
    assert refused(client, query="sea " * 300, input=["a"])["param"] == "query"


def test_documents_are_ranked_as_by_v1_rerank(client: httpx2.Client) -> None:
    body = {"documents": TEXTS, "top_n": 2}
    assert post(client, **body) == reference(client, **body)
    assert refused(client, documents=[])["param"] == "documents"
