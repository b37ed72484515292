from typing import Any

import httpx2
import numpy as np
import pytest

from gateway.routes.large_json import PIECE_BYTES


def post(client: httpx2.Client, path: str, **body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def refused(client: httpx2.Client, path: str, **body: Any) -> str:
    response = client.post(path, json=body)
    assert response.status_code == 400, response.text
    error = response.json()
    assert set(error) == {"error", "error_type"}
    assert error["error_type"] == "Validation"
    message: str = error["error"]
    return message


def reference(client: httpx2.Client, given: Any, **body: Any) -> list[list[float]]:
    return [item["embedding"] for item in post(client, "/v1/embeddings", input=given, **body)["data"]]


@pytest.mark.parametrize(
    "given", ["a shell", ["a shell", "a trumpet"], [[101, 1037, 5806, 102], "a"], [101, 1037, 102]]
)
def test_vectors_are_those_of_v1(client: httpx2.Client, given: Any) -> None:
    assert np.array(post(client, "/embed", inputs=given)) == pytest.approx(np.array(reference(client, given)), abs=1e-4)


def test_headers_report_usage(client: httpx2.Client) -> None:
    headers = client.post("/embed", json={"inputs": ["a shell", "a trumpet"]}).headers
    assert (headers["x-compute-tokens"], headers["x-compute-characters"]) == ("8", "16")
    stages = ("x-tokenization-time", "x-queue-time", "x-inference-time")
    assert all(0 <= int(headers[stage]) <= int(headers["x-total-time"]) for stage in stages)


@pytest.mark.parametrize(("direction", "kept"), [("Right", "sea"), ("Left", "shell")])
def test_long_texts_are_truncated_by_default(client: httpx2.Client, direction: str, kept: str) -> None:
    text = "sea " * 254 + "shell " * 254
    assert post(client, "/embed", inputs=text, truncation_direction=direction) == reference(client, f"{kept} " * 254)
    message = refused(client, "/embed", inputs=["a", text], truncate=False)
    assert message == "inputs[1] has 510 tokens; the limit of model 'all-minilm-l6-v2' is 256"


def test_vectors_may_stay_as_long_as_they_are(client: httpx2.Client) -> None:
    assert post(client, "/embed", inputs="a", normalize=False) == reference(client, "a", normalized=False)


def test_ranking_is_that_of_v1(client: httpx2.Client) -> None:
    texts = ["Brass is an alloy.", "A conch is a sea snail."]
    expected = post(client, "/v1/rerank", query="sea shells", documents=texts)["results"]
    ranks = post(client, "/rerank", query="sea shells", texts=texts, return_text=True)
    assert [(rank["index"], rank["text"]) for rank in ranks] == [(1, texts[1]), (0, texts[0])]
    assert [rank["score"] for rank in ranks] == pytest.approx([r["relevance_score"] for r in expected], abs=1e-4)
    assert all(set(rank) == {"index", "score"} for rank in post(client, "/rerank", query="a", texts=texts))
    (best,) = post(client, "/rerank", query="sea shells", texts=texts, top_n=1)
    assert best["index"] == 1
    assert refused(client, "/rerank", query="a", texts=texts, instruction="b").endswith("does not support instruction")


def test_similarities_are_cosines(client: httpx2.Client) -> None:
    sentences = ["a conch", "an alloy"]
    source, *others = np.array(reference(client, ["a shell", *sentences]))
    found = post(client, "/similarity", inputs={"source_sentence": "a shell", "sentences": sentences})
    assert found == pytest.approx([float(source @ other) for other in others], abs=1e-3)


def test_tokens_are_parts_of_their_text(client: httpx2.Client) -> None:
    (tokens,) = post(client, "/tokenize", inputs="Sea snails")
    assert tokens[0] == {"id": 101, "text": "[CLS]", "special": True, "start": None, "stop": None}
    assert tokens[1] == {"id": 2712, "text": "sea", "special": False, "start": 0, "stop": 3}
    (plain,) = post(client, "/tokenize", inputs=["Sea snails"], add_special_tokens=False)
    assert plain == tokens[1:-1]


def test_tokens_become_their_text(client: httpx2.Client) -> None:
    (tokens,) = post(client, "/tokenize", inputs="Sea snails", model="minilm-late-interaction")
    ids = [token["id"] for token in tokens]
    assert post(client, "/decode", ids=ids) == ["sea snails"]
    assert post(client, "/decode", ids=[ids], skip_special_tokens=False) == ["[CLS] sea snails [SEP]"]
    words = post(client, "/decode", ids=[[id_] for id_ in ids], model="minilm-late-interaction")
    assert words == ["", "sea", "snails", ""]
    assert post(client, "/decode", ids=[[2**32 - 1, 2712], []]) == ["sea", ""]
    assert refused(client, "/decode", ids=[1, [2]]).startswith("ids must be a list of token ids, or a list of such")
    for path, body in (("/decode", {"ids": [1]}), ("/tokenize", {"inputs": "a"})):
        assert client.post(path, json={**body, "model": "x"}).status_code == 404


def test_prediction_needs_a_classifier_or_a_cross_encoder(client: httpx2.Client) -> None:
    answer = client.post("/predict", json={"inputs": ["a", "b"]})
    message = "there is no default model for this endpoint; served here: none"
    assert (answer.status_code, answer.json()) == (404, {"error": message, "error_type": "Validation"})
    for wrong in (["a", "b", "c"], ["a", ["b", "c"]]):
        assert refused(client, "/predict", inputs=wrong).startswith("inputs must be a text, a pair of texts, or a list")


def test_info_describes_the_default_model(client: httpx2.Client) -> None:
    info = client.get("/info").json()
    assert (info["model_id"], info["max_input_length"]) == ("all-minilm-l6-v2", 256)
    assert (info["max_client_batch_size"], info["max_batch_tokens"]) == (2048, 300_000)


def test_health_is_readiness(client: httpx2.Client) -> None:
    assert client.get("/health").status_code == 200


def test_sparse_vectors_need_a_model_that_computes_them(client: httpx2.Client) -> None:
    answer = client.post("/embed_sparse", json={"inputs": "a"})
    assert answer.status_code == 404
    message = "there is no default model for this endpoint; served here: none"
    assert answer.json() == {"error": message, "error_type": "Validation"}


@pytest.mark.parametrize("given", [[], ["a", 5], [["a", "b"]], 5])
def test_bad_inputs_are_refused_in_teis_format(client: httpx2.Client, given: Any) -> None:
    refused(client, "/embed", inputs=given)


def test_rerank_answers_in_the_format_of_the_body(client: httpx2.Client) -> None:
    body = {"query": "sea shells", "documents": ["Brass.", "A conch."], "texts": None}
    expected, answer = client.post("/v1/rerank", json=body), client.post("/rerank", json=body)
    assert answer.status_code == 200
    assert answer.json() == {**expected.json(), "id": answer.headers["x-request-id"]}
    for wrong in (
        {"documents": ["a"]},
        {"query": "a", "documents": 1},
        {"query": "a", "documents": [], "texts": ["a"]},
    ):
        expected, answer = client.post("/v1/rerank", json=wrong), client.post("/rerank", json=wrong)
        assert (answer.status_code, answer.json()) == (400, expected.json())
    assert refused(client, "/rerank", query="a") == "texts is required"
    assert refused(client, "/rerank", query="a", texts=1, documents=None).startswith("texts: Expected")


def test_root_path_answers_by_the_type_of_inputs(client: httpx2.Client) -> None:
    assert post(client, "/", inputs=["a shell"], normalize=False) == post(
        client, "/embed", inputs=["a shell"], normalize=False
    )
    sentences = {"source_sentence": "a shell", "sentences": ["a conch", "a trumpet"]}
    assert post(client, "/", inputs=sentences, parameters={}) == post(client, "/similarity", inputs=sentences)
    assert refused(client, "/") == "inputs is required"


def test_unknown_fields_are_reported(client: httpx2.Client) -> None:
    body = {"inputs": "a shell", "normalise": False, "truncation_direction": None, "truncate": "true"}
    response = client.post("/embed", json=body)
    assert response.status_code == 200
    assert response.headers["x-conch-ignored-fields"] == "normalise"


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/embed", {"inputs": "a", "normalized": False}, "normalized: use normalize instead"),
        ("/embed", {"inputs": "a", "output_dimension": 64}, "output_dimension: use dimensions instead"),
        ("/embed", {"inputs": "a", "input_type": "query"}, "input_type: use prompt_name instead"),
        ("/embed", {"inputs": "a", "encoding_format": "base64"}, "encoding_format: only lists of floats are supported"),
        ("/rerank", {"query": "a", "texts": ["b"], "return_documents": True}, "return_documents: use return_text"),
        (
            "/rerank",
            {"query": "a", "texts": ["b"], "truncate_prompt_tokens": 8},
            "truncate_prompt_tokens: supported only with documents",
        ),
    ],
)
def test_unsupported_fields_are_refused(client: httpx2.Client, path: str, body: dict[str, Any], message: str) -> None:
    assert refused(client, path, **body).startswith(message)


@pytest.mark.parametrize("filling", ["", "a" * PIECE_BYTES])
def test_large_bodies_are_complete_on_paths_with_two_types(client: httpx2.Client, filling: str) -> None:
    for path, body in (
        ("/rerank", {"query": "sea", "texts": [f"sea {filling}", "b"]}),
        ("/rerank", {"query": "sea", "documents": [f"sea {filling}", "b"]}),
        ("/", {"inputs": {"source_sentence": "sea", "sentences": [f"sea {filling}", "b"]}}),
    ):
        response = client.post(path, json=body)
        assert response.status_code == 200, response.text
        assert "x-conch-ignored-fields" not in response.headers
