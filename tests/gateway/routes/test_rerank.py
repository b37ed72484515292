from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch.nn import functional

DOCUMENTS = [
    "Brass is an alloy.",
    "A conch is a sea snail.",
    "The invoice was paid in March.",
    "Sea shells wash ashore.",
]


def post(client: httpx2.Client, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/rerank", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def refused(client: httpx2.Client, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/rerank", json=body)
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def test_answer_has_the_shape_of_the_users_example(client: httpx2.Client) -> None:
    answer = post(client, model="minilm-late-interaction", query="sea shells", documents=DOCUMENTS[:2])
    assert set(answer) == {"results", "usage"}
    assert all(set(result) == {"document", "index", "relevance_score"} for result in answer["results"])
    assert answer["results"][0]["document"] == {"text": "A conch is a sea snail."}
    assert answer["usage"] == {
        "prompt_tokens": 21,
        "completion_tokens": 0,
        "total_tokens": 21,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def test_scores_are_mean_best_cosines_of_the_reference(client: httpx2.Client, minilm_folder: Path) -> None:
    reference = SentenceTransformer(str(minilm_folder), device="cpu")

    def tokens(text: str) -> torch.Tensor:
        encoded = reference.encode(text, output_value="token_embeddings", convert_to_tensor=True)
        assert isinstance(encoded, torch.Tensor)
        return functional.normalize(encoded, dim=-1)

    query = tokens("sea shells")
    expected = {i: float((query @ tokens(text).T).amax(1).mean()) for i, text in enumerate(DOCUMENTS)}
    results = post(client, query="sea shells", documents=DOCUMENTS)["results"]
    assert {result["index"]: result["relevance_score"] for result in results} == pytest.approx(expected, abs=5e-3)


def test_results_are_best_first_and_ties_in_order(client: httpx2.Client) -> None:
    results = post(client, query="sea shells", documents=["same", *DOCUMENTS, "same", "same"])["results"]
    scores = [result["relevance_score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    assert [result["index"] for result in results if result["document"]["text"] == "same"] == [0, 5, 6]


@pytest.mark.parametrize(("top_n", "count"), [(1, 1), (3, 3), (99, 4), (0, 4), (None, 4)])
def test_top_n_cuts_the_list(client: httpx2.Client, top_n: int | None, count: int) -> None:
    assert len(post(client, query="sea", documents=DOCUMENTS, top_n=top_n)["results"]) == count


def test_documents_are_left_out_where_asked(client: httpx2.Client) -> None:
    results = post(client, query="sea", documents=DOCUMENTS, return_documents=False)["results"]
    assert all(set(result) == {"index", "relevance_score"} for result in results)


def test_documents_may_be_objects(client: httpx2.Client) -> None:
    strings = post(client, query="sea", documents=DOCUMENTS)
    assert post(client, query="sea", documents=[{"text": text} for text in DOCUMENTS]) == strings


def test_documents_are_cut_by_default(client: httpx2.Client) -> None:
    assert post(client, query="sea", documents=["long " * 300])["usage"]["total_tokens"] == 3 + 256
    limited = post(client, query="sea", documents=["long " * 300], max_tokens_per_doc=50)
    assert limited["usage"]["total_tokens"] == 3 + 50


def test_long_documents_are_refused_where_asked(client: httpx2.Client) -> None:
    error = refused(client, query="sea", documents=["a", "long " * 300], truncate=False)
    assert error["param"] == "documents[1]"
    assert error["message"] == "documents[1] has 302 tokens; the limit of model 'minilm-late-interaction' is 256"


def test_query_is_never_cut(client: httpx2.Client) -> None:
    assert post(client, query="long " * 126, documents=["a"])["usage"]["total_tokens"] == 128 + 3
    error = refused(client, query="long " * 127, documents=["a"])
    assert error["param"] == "query"
    assert error["message"] == "query has 129 tokens; the limit of model 'minilm-late-interaction' is 128"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"query": "", "documents": ["a"]}, "query"),
        ({"query": "a", "documents": []}, "documents"),
        ({"query": "a", "documents": ["a"] * 2049}, "documents"),
        ({"query": "a", "documents": [1]}, "documents[0]"),
        ({"query": "a", "documents": [{"title": "b"}]}, "documents[0].title"),
        ({"query": "a", "documents": ["a"], "top_n": -1}, "top_n"),
        ({"query": "a", "documents": ["a"], "top_k": 1}, "top_k"),
        ({"query": "a"}, None),
    ],
)
def test_bad_request_names_the_field(client: httpx2.Client, body: dict[str, Any], param: str | None) -> None:
    assert refused(client, **body)["param"] == param


def test_empty_document_ranks_like_any_other(client: httpx2.Client) -> None:
    assert len(post(client, query="sea", documents=["", "sea"])["results"]) == 2


def test_no_score_is_above_one(client: httpx2.Client) -> None:
    texts = ["dog", "[MASK]", "a conch is a sea snail"]
    for text in texts:
        (best, *_) = post(client, query=text, documents=texts)["results"]
        assert best["document"]["text"] == text
        assert 0.99 < best["relevance_score"] <= 1
