from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.odd_models import PROMPTS

QUERY = "a sea snail"
DOCUMENTS = ["a snail", "the conch is a sea snail", "brass and conch", "snail snail snail sea"]


def post(client: httpx2.Client, **body: Any) -> list[dict[str, Any]]:
    response = client.post("/v1/rerank", json={"model": "every-output", "query": QUERY, "documents": DOCUMENTS} | body)
    assert response.status_code == 200, response.text
    results: list[dict[str, Any]] = response.json()["results"]
    return sorted(results, key=lambda result: int(result["index"]))


@pytest.fixture(scope="module")
def expected(repository: Path) -> dict[str, Any]:
    """The scores of all documents by mode, from `tests.odd_models.FORMULA`."""
    tokenizer = Tokenizer.from_file(str(repository / "all-minilm-l6-v2" / "tokenizer.json"))
    tokenizer.no_padding()
    query = tokenizer.encode(PROMPTS["query"] + QUERY).ids
    documents = [tokenizer.encode(PROMPTS["document"] + text).ids for text in DOCUMENTS]

    def dense(ids: list[int]) -> Any:
        vector = np.sum(
            [(i / 1000, at, i % 7 - 3, at % 3 - 1, 1, i % 2, -at, i % 3) for at, i in enumerate(ids)], axis=0
        )
        return vector / np.linalg.norm(vector)

    shared = [{*query} & {*ids} for ids in documents]
    return {
        "dense": [float(dense(query) @ dense(ids)) for ids in documents],
        "sparse": [sum((id_ % 5 / 4) ** 2 for id_ in ids) for ids in shared],
        "multi_vector": [(sum(query) + sum(ids)) / 1e5 for ids in documents],
    }


@pytest.mark.parametrize(
    "weights",
    [
        {"dense": 1, "sparse": 1, "multi_vector": 1},
        {"dense": 0.4, "sparse": 0.2, "multi_vector": 0.4},
        {"dense": 3, "sparse": 1},
        {"sparse": 0.5},
        {"multi_vector": 2, "dense": 0},
        {"dense": 5e-324, "sparse": 1e-323},
    ],
)
def test_score_is_the_weighted_mean(
    odd_client: httpx2.Client, expected: dict[str, Any], weights: dict[str, float]
) -> None:
    weights_of = {mode: Fraction(weight) for mode, weight in weights.items()}
    total = sum(weights_of.values())
    for index, result in enumerate(post(odd_client, weights=weights)):
        counted = {mode for mode, weight in weights.items() if weight}
        assert result["scores"] == pytest.approx({mode: expected[mode][index] for mode in counted}, abs=1e-5)
        mean = sum(float(weights_of[mode] / total) * expected[mode][index] for mode in counted)
        assert result["relevance_score"] == pytest.approx(mean, abs=1e-5)


def test_weights_change_the_order(odd_client: httpx2.Client, expected: dict[str, Any]) -> None:
    def order(**weights: float) -> list[int]:
        body = {"model": "every-output", "query": QUERY, "documents": DOCUMENTS, "weights": weights}
        results = odd_client.post("/v2/rerank", json=body).json()["results"]
        return [result["index"] for result in results]

    for mode in ("dense", "sparse", "multi_vector"):
        assert order(**{mode: 1}) == np.argsort(-np.array(expected[mode]), kind="stable").tolist()
    assert order(dense=1) != order(sparse=1)


def test_without_weights_the_score_is_the_models_own(odd_client: httpx2.Client, expected: dict[str, Any]) -> None:
    results = post(odd_client)
    assert [result["relevance_score"] for result in results] == pytest.approx(expected["multi_vector"], abs=1e-5)
    assert all("scores" not in result for result in results)


def test_chunks_are_weighed_too(odd_client: httpx2.Client) -> None:
    text = "brass " * 20 + "sea " * 10
    (result,) = post(odd_client, documents=[text], weights={"sparse": 1}, max_tokens_per_chunk=10)
    assert result["chunk"]["text"] == ("sea " * 10).strip()
    assert result["scores"] == {"sparse": pytest.approx(result["relevance_score"])}


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"weights": {}}, "weights", "weights needs dense, sparse or multi_vector above 0"),
        ({"weights": {"dense": -1}}, "weights.dense", ">= 0"),
        (
            {"weights": {"sparse": 1}, "model": "prompted-late"},
            "weights.sparse",
            "'prompted-late' has no sparse score; models that have one: every-output",
        ),
        ({"weights": {"dense": 1}, "model": "public-score"}, "weights.dense", "'public-score' has no dense score"),
    ],
)
def test_weights_are_checked(odd_client: httpx2.Client, body: dict[str, Any], param: str, message: str) -> None:
    response = odd_client.post(
        "/v1/rerank", json={"model": "every-output", "query": QUERY, "documents": DOCUMENTS} | body
    )
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert message in response.json()["error"]["message"]
