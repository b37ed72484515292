import httpx2
import pytest

PASSAGES = ["Brass is an alloy.", "A conch is a sea snail."]


def body(query: str, passages: list[str], **fields: object) -> dict[str, object]:
    return {"query": {"text": query}, "passages": [{"text": text} for text in passages], **fields}


def test_ranking_is_that_of_v1_rerank(client: httpx2.Client) -> None:
    answer = client.post("/v1/ranking", json=body("sea shells", PASSAGES, model="minilm-late-interaction")).json()
    expected = client.post("/v1/rerank", json={"query": "sea shells", "documents": PASSAGES}).json()
    assert set(answer) == {"rankings", "usage"}
    assert [rank["index"] for rank in answer["rankings"]] == [1, 0]
    scores = [result["relevance_score"] for result in expected["results"]]
    assert [rank["logit"] for rank in answer["rankings"]] == pytest.approx(scores, abs=1e-4)
    assert answer["usage"]["total_tokens"] == expected["usage"]["total_tokens"]


def test_long_passages_are_refused_unless_truncation_is_allowed(client: httpx2.Client) -> None:
    refused = client.post("/v1/ranking", json=body("sea", ["a", "sea " * 300]))
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "passages[1]"
    for end in ("START", "END"):
        assert client.post("/v1/ranking", json=body("sea", ["a", "sea " * 300], truncate=end)).status_code == 200


@pytest.mark.parametrize(
    ("query", "passage", "message"),
    [
        (
            {"text": "a"},
            {"text": "b", "image": "c"},
            "passages[0].image is an image, but model 'minilm-late-interaction' accepts only text",
        ),
        ({"text": "a"}, {}, "passages[0] has neither text nor image"),
        ({"text": "a", "image": "c"}, {"text": "b"}, "query.image: queries are texts; passages may have images"),
    ],
)
def test_images_are_for_passages_of_models_that_read_them(
    client: httpx2.Client, query: object, passage: object, message: str
) -> None:
    given = {"query": query, "passages": [passage]}
    assert client.post("/v1/ranking", json=given).json()["error"]["message"] == message
