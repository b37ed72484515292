import base64
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from gateway import vectors
from tests.odd_models import PROMPTS
from tests.serving import serve

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEUlEQVR4nGP4z8AARAwQCgAf7gP9i18U1AAAAABJRU5E"
    "rkJggg=="
)


def embed(client: httpx2.Client, **body: Any) -> dict[str, Any]:
    given = {"model": "all-minilm-l6-v2", "input_type": "search_document", **body}
    response = client.post("/v2/embed", json=given)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def refused(client: httpx2.Client, path: str, status: int = 400, **body: Any) -> str:
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    error = response.json()
    assert set(error) == {"id", "message"}
    assert error["id"] == response.headers["x-request-id"]
    message: str = error["message"]
    return message


def reference(client: httpx2.Client, given: Any, model: str = "all-minilm-l6-v2") -> list[list[float]]:
    answer = client.post("/v1/embeddings", json={"input": given, "model": model}).json()
    return [item["embedding"] for item in answer["data"]]


def test_every_type_is_a_list_of_its_own(client: httpx2.Client) -> None:
    kinds = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    answer = embed(client, texts=["a shell", "a trumpet"], embedding_types=kinds)
    assert set(answer) == {"id", "embeddings", "texts", "meta", "response_type"}
    assert answer["texts"] == ["a shell", "a trumpet"]
    assert answer["meta"] == {
        "api_version": {"version": "2"},
        "billed_units": {"input_tokens": 8},
        "tokens": {"input_tokens": 8},
    }
    floats = np.array(reference(client, ["a shell", "a trumpet"]), np.float32)
    found = answer["embeddings"]
    assert set(found) == set(kinds)
    assert np.array(found["float"], np.float32) == pytest.approx(floats, abs=1e-6)
    for kind in ("int8", "uint8", "binary", "ubinary"):
        assert np.array(found[kind]).tolist() == vectors.QUANTISATIONS[kind](np.array(found["float"], "f4")).tolist()
    assert np.frombuffer(base64.b64decode(found["base64"][1]), "<f4").tolist() == pytest.approx(found["float"][1])


def test_v1_embed_returns_one_list_of_floats_unless_types_are_requested(client: httpx2.Client) -> None:
    answer = client.post("/v1/embed", json={"texts": ["a shell", "a trumpet"]}).json()
    assert set(answer) == {"id", "embeddings", "texts", "meta", "response_type"}
    assert answer["response_type"] == "embeddings_floats"
    assert answer["embeddings"] == reference(client, ["a shell", "a trumpet"])
    assert answer["meta"]["api_version"] == {"version": "1"}
    assert answer["meta"]["billed_units"] == answer["meta"]["tokens"] == {"input_tokens": 8}
    typed = client.post("/v1/embed", json={"texts": ["a shell"], "embedding_types": ["float", "ubinary"]}).json()
    assert typed["response_type"] == "embeddings_by_type"
    assert set(typed["embeddings"]) == {"float", "ubinary"}
    assert refused(client, "/v1/embed", texts=["a"], inputs=[{}]) == "inputs: supported by POST /v2/embed only"


def test_images_and_content_lists_are_those_of_v1(client: httpx2.Client) -> None:
    model = "minilm-pictogram"
    alone = embed(client, model=model, input_type="image", images=[PIXEL])["embeddings"]["float"]
    assert alone == reference(client, [{"image": PIXEL}], model)
    content = [{"type": "text", "text": "red"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    fused = embed(client, model=model, inputs=[{"content": content}, {"content": content[:1]}])["embeddings"]["float"]
    assert fused == reference(client, [{"text": "red", "image": PIXEL}, "red"], model)


@pytest.mark.parametrize(("truncate", "kept"), [("END", "sea"), ("START", "shell")])
def test_long_text_can_be_truncated_at_either_end(client: httpx2.Client, truncate: str, kept: str) -> None:
    text = "sea " * 254 + "shell " * 254
    cut = embed(client, texts=[text], truncate=truncate)
    assert cut["meta"]["billed_units"]["input_tokens"] == 256
    assert cut["embeddings"]["float"] == reference(client, [f"{kept} " * 254])


def test_limit_can_be_lower_than_the_models(client: httpx2.Client) -> None:
    cut = embed(client, texts=["sea " * 100], max_tokens=10)
    assert cut["meta"]["billed_units"]["input_tokens"] == 10
    body: dict[str, Any] = {"model": "all-minilm-l6-v2", "input_type": "search_query", "texts": ["sea " * 100]}
    assert refused(client, "/v2/embed", **body, truncate="NONE", max_tokens=10).startswith(
        "texts[0] has 102 tokens; the limit of model"
    )


def test_input_type_selects_the_prompt(odd_client: httpx2.Client) -> None:
    def echo(text: str, purpose: str) -> Any:
        return embed(odd_client, model="prompted", texts=[text], input_type=purpose)["meta"]["billed_units"]

    plain = echo("sea", "clustering")["input_tokens"]  # the default prompt, "document"
    assert PROMPTS == {"query": "question: ", "document": "passage: "}
    assert echo("sea", "search_query")["input_tokens"] == plain
    message = refused(odd_client, "/v2/embed", model="prompted", texts=["sea"], input_type="cooking")
    assert message.startswith("unknown input_type 'cooking'; model 'prompted' accepts: query, document, ")


def test_ranking_is_that_of_v1(client: httpx2.Client) -> None:
    documents = ["Brass is an alloy.", "A conch is a sea snail."]
    response = client.post(
        "/v2/rerank",
        json={"model": "minilm-late-interaction", "query": "sea shells", "documents": documents, "top_n": 1},
    )
    answer = response.json()
    assert response.status_code == 200
    assert answer["id"] == response.headers["x-request-id"]
    assert answer["meta"] == {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    expected = client.post("/v1/rerank", json={"query": "sea shells", "documents": documents, "top_n": 1}).json()
    assert answer["results"] == [
        {"index": 1, "relevance_score": pytest.approx(expected["results"][0]["relevance_score"], abs=1e-4)}
    ]


def test_ranking_takes_what_v1_takes(odd_client: httpx2.Client) -> None:
    documents = ["sea " * 300 + "shell " * 60, "shell " * 46]
    body: dict[str, Any] = {"model": "public-score", "query": "sea", "documents": documents}
    for asked in (
        {"raw_scores": True},
        {"truncate_prompt_tokens": 50, "truncation_side": "left"},
        {"truncate_prompt_tokens": 50},
    ):
        found, expected = (
            [(one["index"], one["relevance_score"]) for one in response.json()["results"]]
            for response in (odd_client.post(path, json=body | asked) for path in ("/v2/rerank", "/v1/rerank"))
        )
        assert found == expected
    message = refused(odd_client, "/v2/rerank", **body, instruction="find shells")
    assert message.startswith("model 'public-score' does not support instruction")


def test_dimension_of_zero_means_all(client: httpx2.Client) -> None:
    assert embed(client, texts=["a"], output_dimension=0)["embeddings"] == embed(client, texts=["a"])["embeddings"]


def test_documents_are_returned_on_request(client: httpx2.Client) -> None:
    body = {"model": "minilm-late-interaction", "query": "a", "documents": ["b"], "return_documents": True}
    (result,) = client.post("/v2/rerank", json=body).json()["results"]
    assert result["document"] == {"text": "b"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "send exactly one of texts, images and inputs, not none"),
        (
            {"texts": ["a"], "images": [PIXEL]},
            "send exactly one of texts, images and inputs, not texts and images",
        ),
        ({"texts": []}, "texts: Expected `array` of length >= 1"),
        ({"texts": "a", "colour": 1}, "texts: Expected `array | null`, got `str`"),
        ({"images": [PIXEL]}, "images[0] contains an image, but model 'all-minilm-l6-v2' accepts only text; models"),
        ({"texts": ["a"], "output_dimension": 7}, "output_dimension is 7; model 'all-minilm-l6-v2' supports 384"),
        (
            {"inputs": [{"content": [{"type": "text", "text": "a"}] * 2}]},
            "inputs[0] may hold only one text and one image",
        ),
        ({"texts": ["a"], "dimensions": 64}, "dimensions: use output_dimension instead"),
        ({"texts": ["a"], "truncate_prompt_tokens": 64}, "truncate_prompt_tokens: use max_tokens instead"),
        ({"texts": ["a"], "normalized": False}, "normalized: vectors are always normalized"),
    ],
)
def test_errors_have_the_format_of_cohere(client: httpx2.Client, body: dict[str, Any], message: str) -> None:
    given = {"model": "all-minilm-l6-v2", "input_type": "search_query", **body}
    assert refused(client, "/v2/embed", **given).startswith(message)


def test_unknown_model_is_not_found(client: httpx2.Client) -> None:
    documents = {"query": "a", "documents": ["b"]}
    assert refused(client, "/v2/rerank", 404, model="x", **documents).startswith("there is no model 'x'")


def test_missing_key_is_reported_in_the_same_format(repository: Path) -> None:
    with serve(repository, GATEWAY_API_KEYS="k") as guarded, httpx2.Client(base_url=guarded.url, timeout=60) as client:
        assert refused(client, "/v2/rerank", 401, query="a").startswith("an API key is required")


def test_input_type_may_be_left_out_where_the_model_has_no_prompts(
    client: httpx2.Client, odd_client: httpx2.Client
) -> None:
    answer = client.post("/v2/embed", json={"model": "all-minilm-l6-v2", "texts": ["a shell"]}).json()
    assert answer["embeddings"]["float"] == reference(client, ["a shell"])
    message = refused(odd_client, "/v2/embed", model="prompted", texts=["a shell"])
    assert message.startswith("input_type is required for model 'prompted', which has prompts")


def test_rerank_also_answers_vllms_clients(client: httpx2.Client) -> None:
    body = {"query": "sea shells", "documents": ["Brass.", "A conch."], "top_n": 0}
    answer = client.post("/v2/rerank", json=body).json()
    expected = client.post("/v1/rerank", json=body).json()
    assert len(answer["results"]) == 2
    assert (answer["model"], answer["usage"]) == (expected["model"], expected["usage"])
