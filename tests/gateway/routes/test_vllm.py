"""Routes of vLLM with the default models; those of classifiers are in tests/end_to_end/test_predictions.py."""

import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import numpy as np
import pytest

from gateway import __version__
from tests.odd_models import PROMPTS
from tests.waiting import eventually

QUERY = "Who plays a shell?"
TEXTS = ["A conch can be blown like a trumpet.", "Brass is an alloy."]


def post(client: httpx2.Client, path: str, **body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def refused(client: httpx2.Client, path: str, **body: Any) -> tuple[str, str]:
    response = client.post(path, json=body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    return error["message"], error["param"]


def scores(answer: Any) -> list[float]:
    assert [item["index"] for item in answer["data"]] == list(range(len(answer["data"])))
    return [item["score"] for item in answer["data"]]


def relevance(client: httpx2.Client, query: str, documents: list[str]) -> list[float]:
    results = post(client, "/v1/rerank", query=query, documents=documents)["results"]
    return [result["relevance_score"] for result in sorted(results, key=lambda result: int(result["index"]))]


def vectors(client: httpx2.Client, texts: list[str], **body: Any) -> list[list[float]]:
    return [item["embedding"] for item in post(client, "/v1/embeddings", input=texts, **body)["data"]]


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
def test_scores_of_one_text_with_several_are_those_of_rerank(client: httpx2.Client, path: str) -> None:
    answer = post(client, path, text_1=QUERY, text_2=TEXTS)
    assert scores(answer) == pytest.approx(relevance(client, QUERY, TEXTS), abs=1e-2)
    assert (answer["object"], answer["model"]) == ("list", "minilm-late-interaction")
    assert answer["data"][0]["object"] == "score"
    assert answer["usage"] == {"prompt_tokens": 33, "total_tokens": 33, "completion_tokens": 0}


def test_scores_of_as_many_texts_are_of_pairs(client: httpx2.Client) -> None:
    queries = [QUERY, "What is brass?"]
    expected = [relevance(client, query, [text])[0] for query, text in zip(queries, TEXTS, strict=True)]
    assert scores(post(client, "/score", text_1=queries, text_2=TEXTS)) == pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize("names", [("queries", "documents"), ("queries", "items"), ("data_1", "data_2")])
def test_fields_of_scores_have_several_names(client: httpx2.Client, names: tuple[str, str]) -> None:
    found = post(client, "/score", **{names[0]: [QUERY], names[1]: TEXTS[0]})
    assert scores(found) == pytest.approx(relevance(client, QUERY, TEXTS[:1]), abs=1e-2)


def test_scores_of_an_embedding_model_are_cosines(client: httpx2.Client) -> None:
    query, *others = np.array(vectors(client, [QUERY, *TEXTS]))
    answer = post(client, "/score", model="all-minilm-l6-v2", text_1=QUERY, text_2=TEXTS)
    assert scores(answer) == pytest.approx([float(query @ other) for other in others], abs=1e-3)
    assert answer["usage"]["prompt_tokens"] > 0


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({}, "text_1 is required", "text_1"),
        ({"text_1": "a"}, "text_2 is required", "text_2"),
        ({"text_1": "a", "queries": "b", "text_2": "c"}, "text_1 and queries have the same meaning", "queries"),
        ({"text_1": ["a", "b"], "text_2": ["c"]}, "text_1 has 2 texts and text_2 has 1; send one text", "text_1"),
        ({"text_1": "a", "text_2": ["b", "c " * 300]}, "text_2[1] has 302 tokens; the limit of model", "text_2[1]"),
        (
            {"text_1": "a", "text_2": "b", "max_tokens_per_doc": 8},
            "max_tokens_per_doc: use trunc",
            "max_tokens_per_doc",
        ),
    ],
)
def test_wrong_pairs_are_refused(client: httpx2.Client, body: dict[str, Any], message: str, param: str) -> None:
    found, place = refused(client, "/score", **body)
    assert found.startswith(message)
    assert place == param


def test_long_texts_are_truncated_on_request(client: httpx2.Client) -> None:
    text = "sea " * 300
    for more in ({"truncate": True}, {"truncate_prompt_tokens": -1}, {"truncate": "START"}):
        (found,) = scores(post(client, "/score", text_1="a", text_2=text, **more))
        assert found == pytest.approx(relevance(client, "a", [text])[0], abs=1e-2)


def test_pooled_vectors_are_those_of_v1(client: httpx2.Client) -> None:
    answer = post(client, "/pooling", input=TEXTS, task="embed")
    expected = vectors(client, TEXTS)
    assert [item["data"] for item in answer["data"]] == [pytest.approx(vector, abs=1e-4) for vector in expected]
    assert {item["object"] for item in answer["data"]} == {"pooling"}
    assert answer["usage"]["prompt_tokens"] == 19
    (whole,) = post(client, "/pooling", input=[101, 1037, 102], task="embed", use_activation=False)["data"]
    (same,) = vectors(client, [[101, 1037, 102]], normalized=False)  # type: ignore[list-item]
    assert whole["data"] == pytest.approx(same, abs=1e-3)


def test_pooled_vectors_may_be_base64(client: httpx2.Client) -> None:
    (item,) = post(client, "/pooling", input=TEXTS[0], task="embed", encoding_format="base64")["data"]
    decoded = np.frombuffer(base64.b64decode(item["data"]), "<f4")
    assert decoded.tolist() == pytest.approx(vectors(client, TEXTS[:1])[0], abs=1e-4)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"input": [["a", "b"]], "task": "embed"}, "input[0] is a pair of texts; only task classify takes pairs"),
        ({"input": [["a"]], "task": "embed"}, "input[0] must be a text, a pair of texts, or a list of token ids"),
        ({"input": [5, "a"], "task": "embed"}, "input[0] must be a text, a pair of texts, or a list of token ids"),
        ({"input": ["a"] * 2049, "task": "embed"}, "input has 2049 items; it must have 1 to 2048"),
        ({"input": "a", "task": "embed", "dimensions": 5}, "dimensions is 5; model 'all-minilm-l6-v2' supports 384"),
        ({"input": "a", "task": "plugin"}, "task: 'plugin' is not one of classify, embed, token_embed"),
        ({}, "input is required"),
        ({"messages": []}, "messages has no user message"),
        ({"input": "a", "messages": [{"role": "user", "content": "a"}]}, "input and messages exclude each other"),
    ],
)
def test_wrong_inputs_of_pooling_are_refused(client: httpx2.Client, body: dict[str, Any], message: str) -> None:
    assert refused(client, "/pooling", **body)[0].startswith(message)


@pytest.mark.parametrize(("path", "more"), [("/classify", {}), ("/pooling", {"task": "classify"})])
def test_labels_need_a_classifier(client: httpx2.Client, path: str, more: dict[str, str]) -> None:
    answer = client.post(path, json={"input": "a", "model": "all-minilm-l6-v2", **more})
    message = "there is no model 'all-minilm-l6-v2' for this endpoint; served here: none"
    assert (answer.status_code, answer.json()["error"]["message"]) == (404, message)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/classify", {"raw_scores": False, "use_activation": False}, "raw_scores"),
        ("/classify", {"raw_scores": True, "softmax": True}, "raw_scores"),
        ("/pooling", {"dimensions": 1}, "dimensions"),
    ],
)
def test_fields_that_contradict_a_classifier_are_refused(
    odd_client: httpx2.Client, path: str, body: dict[str, Any], param: str
) -> None:
    assert refused(odd_client, path, model="two-labels", input="a", **body)[1] == param
    for raw_scores in (True, False):
        given = {"raw_scores": raw_scores, "use_activation": not raw_scores}
        assert post(odd_client, "/classify", model="two-labels", input="a", **given)["object"] == "classify"


def test_token_vectors_are_those_of_v1(odd_client: httpx2.Client) -> None:
    texts = ["a conch", "a trumpet of brass"]
    expected = vectors(odd_client, texts, model="every-output", embedding_type="multi_vector")
    for more in ({"task": "token_embed"}, {}):
        found = post(odd_client, "/pooling", model="every-output", input=texts, **more)["data"]
        assert [item["data"] for item in found] == [pytest.approx(np.array(one), abs=1e-6) for one in expected]
    (item,) = post(odd_client, "/pooling", model="every-output", input=texts[0], encoding_format="base64")["data"]
    decoded = np.frombuffer(base64.b64decode(item["data"]), "<f4").reshape(-1, 8)
    assert decoded == pytest.approx(np.array(expected[0]), abs=1e-6)
    (item,) = post(odd_client, "/pooling", model="every-output", input=texts[0], dimensions=4)["data"]
    assert np.linalg.norm(item["data"], axis=1) == pytest.approx(1)
    assert np.array(item["data"]).shape == (len(expected[0]), 4)


def test_special_tokens_can_be_left_out(odd_client: httpx2.Client) -> None:
    told = {"prompt": PROMPTS["document"] + "a conch", "model": "every-output"}
    bare = post(odd_client, "/tokenize", add_special_tokens=False, **told)["tokens"]
    assert bare == post(odd_client, "/tokenize", **told)["tokens"][1:-1]
    body: dict[str, Any] = {"model": "every-output", "input": "a conch", "add_special_tokens": False}
    (item,) = post(odd_client, "/pooling", task="token_embed", use_activation=False, **body)["data"]
    assert np.array(item["data"])[:, 0] * 1000 == pytest.approx(np.array(bare))  # the model writes the ids
    answer = post(odd_client, "/v1/embeddings", embedding_type="multi_vector", normalized=False, **body)
    assert np.array(answer["data"][0]["embedding"]) == pytest.approx(np.array(item["data"]))
    assert answer["usage"]["prompt_tokens"] == len(bare)
    (cut,) = post(odd_client, "/pooling", task="token_embed", truncate_prompt_tokens=4, **body)["data"]
    assert len(cut["data"]) == 4
    mean = post(odd_client, "/v1/embeddings", **{**body, "model": "mean"}, input_type="document")
    assert mean["usage"]["prompt_tokens"] == len(bare)


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/score", {"text_1": "a", "text_2": "b"}, "add_special_tokens: special tokens are always added"),
        ("/classify", {"model": "two-labels", "input": [["a", "b"]]}, "add_special_tokens must not be false for pairs"),
        (
            "/v1/embeddings",
            {"input": "a", "enable_chunked_processing": True},
            "enable_chunked_processing needs special",
        ),
    ],
)
def test_special_tokens_cannot_be_left_out_everywhere(
    odd_client: httpx2.Client, path: str, body: dict[str, Any], message: str
) -> None:
    found, _ = refused(odd_client, path, add_special_tokens=False, **body)
    assert found.startswith(message)


def test_fields_that_change_nothing_are_accepted(client: httpx2.Client) -> None:
    more = {"priority": -1, "request_id": "mine", "cache_salt": "salt", "user": "u"}
    for path, body in (
        ("/v1/embeddings", {"input": "a"}),
        ("/pooling", {"input": "a", "task": "embed"}),
        ("/score", {"text_1": "a", "text_2": "b"}),
        ("/rerank", {"query": "a", "documents": ["b"]}),
    ):
        response = client.post(path, json={**body, **more})
        assert response.status_code == 200
        assert "x-conch-ignored-fields" not in response.headers


def test_state_of_the_server(odd_client: httpx2.Client) -> None:
    def load() -> int:
        return int(odd_client.get("/load").json()["server_load"])

    assert odd_client.get("/ping").status_code == odd_client.get("/health").status_code
    assert odd_client.get("/version").json() == {"version": __version__}
    eventually(lambda: load() == 0)
    with ThreadPoolExecutor() as pool:
        pool.submit(odd_client.post, "/v1/embeddings", json={"input": "a", "model": "slow"})
        eventually(lambda: load() == 1)
