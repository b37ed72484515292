import httpx2
import pytest


def test_list_has_openais_shape_and_what_clients_need_to_know(client: httpx2.Client) -> None:
    answer = client.get("/v1/models").json()
    assert answer["object"] == "list"
    embedding, reranker, pair = answer["data"]
    assert isinstance(embedding.pop("created"), int)
    assert embedding == {
        "id": "all-minilm-l6-v2",
        "object": "model",
        "owned_by": "conch",
        "role": "text-embedding",
        "model_type": "embedding",
        "input_modalities": ["text"],
        "default": True,
        "vectors": ["dense", "multi_vector"],
        "dimensions": 384,
        "max_tokens": 256,
        "max_model_len": 256,
        "aliases": ["text-embedding-3-small"],
    }
    assert (reranker["id"], reranker["role"]) == ("minilm-late-interaction", "late-interaction")
    assert reranker["model_type"] == "rerank"
    assert (reranker["vectors"], reranker["dimensions"]) == (["multi_vector"], 384)
    assert (pair["role"], pair["input_modalities"]) == ("image-text", ["text", "image"])


def test_model_is_found_by_name_and_alias(client: httpx2.Client) -> None:
    by_name = client.get("/v1/models/all-minilm-l6-v2")
    assert by_name.status_code == 200
    assert client.get("/v1/models/text-embedding-3-small").json() == by_name.json()


@pytest.mark.parametrize("prefix", ["", "/openai/v1"])
def test_other_paths_answer_the_same(client: httpx2.Client, prefix: str) -> None:
    for path in ("/models", "/models/all-minilm-l6-v2", "/models/none"):
        expected, answer = client.get(f"/v1{path}"), client.get(f"{prefix}{path}")
        assert (answer.status_code, answer.json()) == (expected.status_code, expected.json())


def test_unknown_model_is_404(client: httpx2.Client) -> None:
    response = client.get("/v1/models/some/other")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


def test_reranker_with_dense_vectors_is_an_embedding_model(odd_client: httpx2.Client) -> None:
    assert odd_client.get("/v1/models/every-output").json()["model_type"] == "embedding"
    assert odd_client.get("/v1/models/four-terms").json()["model_type"] == "embedding"
    assert odd_client.get("/v1/models/prompted-late").json()["model_type"] == "rerank"


def test_matryoshka_dimensions_are_listed(odd_client: httpx2.Client) -> None:
    assert odd_client.get("/v1/models/matryoshka").json()["supported_dimensions"] == [64, 128, 384]


def test_cross_encoder_is_listed_by_its_public_name(odd_client: httpx2.Client) -> None:
    model = odd_client.get("/v1/models/public-score").json()
    assert (model["role"], model["max_tokens"]) == ("cross-encoder", 256)
    assert "dimensions" not in model
    assert odd_client.get("/v1/models/pair-score").status_code == 404
    names = [model["id"] for model in odd_client.get("/v1/models").json()["data"]]
    assert names == sorted(set(names))
