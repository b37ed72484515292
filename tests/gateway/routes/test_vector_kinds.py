"""Sparse vectors and a vector for each token, of the models in `tests.odd_models` that follow a formula."""

import base64
from collections.abc import Sequence
from typing import Any

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.service.embed import MAX_TOKEN_NUMBERS, NUMBER_BYTES
from tests.gateway.routes.test_embeddings import post, refused

MODEL = "every-output"
TEXT = "a conch. a shell"
IDS = [101, 6019, 1024, 1037, 9530, 2818, 1012, 1037, 5806, 102]
"""Of the text after the prompt of documents."""
SKIPPED = 1012


def formula(ids: Sequence[int]) -> NDArray[np.float32]:
    """The vector of each token, [L, 8]."""
    place = np.arange(len(ids))
    given = np.array(ids)
    parts = [given / 1000, place, given % 7 - 3, place % 3 - 1, place * 0 + 1, given % 2, -place, given % 3]
    vectors: NDArray[np.float32] = np.stack(parts, 1).astype(np.float32)
    return vectors


def units(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


def tokens(ids: Sequence[int]) -> NDArray[np.float32]:
    """The vectors that a document has: those of the skip list are left out."""
    counted: NDArray[np.float32] = formula(ids)[np.array(ids) != SKIPPED]
    return counted


def embedding(client: httpx2.Client, **body: Any) -> Any:
    (item,) = post(client, **{"model": MODEL, "input": TEXT} | body)["data"]
    return item["embedding"]


def test_sparse_vector_has_the_terms_in_order_once_each(odd_client: httpx2.Client) -> None:
    vector = embedding(odd_client, embedding_type="sparse")
    expected = {i: w for i, w in zip(IDS, (np.array(IDS) % 5 / 4).tolist(), strict=True) if w}
    assert vector == {"indices": sorted(expected), "values": [expected[i] for i in sorted(expected)]}
    assert len(vector["indices"]) < len(IDS)  # one occurs twice, and one has the weight 0


def test_multi_vector_has_a_unit_vector_for_each_token_that_counts(odd_client: httpx2.Client) -> None:
    answer = post(odd_client, model=MODEL, input=[TEXT, "a shell"], embedding_type="multi_vector")
    first, second = (np.array(item["embedding"], np.float32) for item in answer["data"])
    assert first == pytest.approx(units(tokens(IDS)), abs=1e-6)
    assert second == pytest.approx(units(tokens([101, 6019, 1024, 1037, 5806, 102])), abs=1e-6)
    assert answer["usage"]["token_vectors"] == len(first) + len(second) == len(IDS) - 1 + 6
    assert answer["usage"]["prompt_tokens"] == len(IDS) + 6


def test_all_kinds_come_in_one_answer(odd_client: httpx2.Client) -> None:
    every = embedding(odd_client, embedding_type=["float", "multi_vector", "sparse", "int8"])
    assert list(every) == ["float", "multi_vector", "sparse", "int8"]
    for kind, value in every.items():
        assert value == embedding(odd_client, embedding_type=kind)
    dense = formula(IDS).sum(0)
    assert every["float"] == pytest.approx(dense / np.linalg.norm(dense), abs=1e-6)


def test_text_is_computed_once_for_all_kinds(odd_client: httpx2.Client) -> None:
    name = 'conch_batch_rows_count{model="every-output"}'

    def calls() -> float:
        lines = odd_client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    before = calls()
    embedding(odd_client, embedding_type=["float", "multi_vector", "sparse"])
    embedding(odd_client, embedding_type=["float", "multi_vector", "sparse"], task="query", input="a shell")
    assert calls() == before + 2


@pytest.mark.parametrize("kind", ["int8", "uint8", "binary", "ubinary", "base64"])
def test_token_vectors_have_the_number_types_of_others(odd_client: httpx2.Client, kind: str) -> None:
    body = {"embedding_type": "multi_vector", "multi_vector_type": kind}
    floats = np.array(embedding(odd_client, embedding_type="multi_vector"), np.float32)
    written = embedding(odd_client, **body)
    if kind == "base64":
        assert [np.frombuffer(base64.b64decode(text), "<f4").tolist() for text in written] == floats.tolist()
        return
    bits = floats > 0
    scaled = np.clip(np.rint(floats * 127 * np.sqrt(8) / 8), -127, 127)
    expected = {
        "int8": scaled,
        "uint8": scaled + 128,
        "binary": np.packbits(bits, axis=1).astype(int) - 128,
        "ubinary": np.packbits(bits, axis=1),
    }[kind]
    assert written == expected.astype(int).tolist()


def test_encoding_format_concerns_token_vectors_too(odd_client: httpx2.Client) -> None:
    as_type = embedding(odd_client, embedding_type="multi_vector", multi_vector_type="base64")
    assert embedding(odd_client, embedding_type="multi_vector", encoding_format="base64") == as_type


def test_token_vectors_are_cut_and_normalised_again(odd_client: httpx2.Client) -> None:
    raw = np.array(embedding(odd_client, embedding_type="multi_vector", normalized=False), np.float32)
    assert raw == pytest.approx(tokens(IDS), abs=1e-5)
    for normalized in (True, False):
        cut = embedding(odd_client, embedding_type="multi_vector", dimensions=4, normalized=normalized)
        assert np.array(cut) == pytest.approx(units(raw[:, :4]), abs=1e-6)


def test_jinas_clients_get_embeddings(odd_client: httpx2.Client) -> None:
    (item,) = post(odd_client, model=MODEL, input=TEXT, return_multivector=True)["data"]
    assert set(item) == {"object", "index", "embeddings"}
    assert item["embeddings"] == embedding(odd_client, embedding_type="multi_vector")
    for kind in ("binary", ["binary"]):
        (item,) = post(odd_client, model=MODEL, input=TEXT, return_multivector=True, embedding_type=kind)["data"]
        binary = embedding(odd_client, embedding_type="multi_vector", multi_vector_type="binary")
        assert item["embeddings"] == binary
    (item,) = post(odd_client, model=MODEL, input=TEXT, return_multivector=False)["data"]
    assert set(item) == {"object", "index", "embedding"}


def test_queries_have_a_prompt_and_expansion_of_their_own(odd_client: httpx2.Client) -> None:
    answer = post(odd_client, model=MODEL, input="a", task="query", embedding_type="multi_vector", normalized=False)
    query = [101, 3160, 1024, 1037, 102]  # "question: a"
    assert answer["usage"]["prompt_tokens"] == len(query)
    assert answer["usage"]["token_vectors"] == 8
    assert answer["data"][0]["embedding"] == pytest.approx(formula([*query, 0, 0, 0]), abs=1e-5)
    for task in ("document", None):
        answer = post(odd_client, model=MODEL, input="a", task=task, embedding_type="multi_vector", normalized=False)
        document = [101, 6019, 1024, 1037, 102]  # "passage: a"
        assert answer["data"][0]["embedding"] == pytest.approx(formula(document), abs=1e-5)


def test_tokens_name_the_token_of_each_vector(odd_client: httpx2.Client) -> None:
    document, query = (
        post(odd_client, model=MODEL, input="a", task=task, return_multivector=True, return_tokens=True)["data"][0]
        for task in ("document", "query")
    )
    assert document["tokens"] == {"ids": [101, 6019, 1024, 1037, 102], "images": []}
    assert query["tokens"] == {"ids": [101, 3160, 1024, 1037, 102, None, None, None], "images": []}
    every = post(odd_client, model=MODEL, input=TEXT, embedding_type=["float", "multi_vector"], return_tokens=True)
    assert every["data"][0]["tokens"]["ids"] == [token for token in IDS if token != SKIPPED]


def test_dense_vector_of_a_query_is_that_of_its_text(odd_client: httpx2.Client) -> None:
    both = embedding(odd_client, input="a", task="query", embedding_type=["float", "multi_vector"], normalized=False)
    query = [101, 3160, 1024, 1037, 102]
    assert both["float"] == pytest.approx(formula(query).sum(0), abs=1e-4)
    assert both["multi_vector"] == pytest.approx(formula([*query, 0, 0, 0]), abs=1e-5)
    alone = embedding(odd_client, input="a", task="query", embedding_type="float", normalized=False)
    assert alone == both["float"]


def test_query_over_its_limit_is_an_error_or_truncated(odd_client: httpx2.Client) -> None:
    body: Any = {"model": MODEL, "input": "a a a a a a a a", "task": "query", "embedding_type": "multi_vector"}
    assert "input has 12 tokens; the limit of model 'every-output' is 8" in refused(odd_client, **body)["message"]
    assert post(odd_client, truncate=True, **body)["usage"]["prompt_tokens"] == 8


def test_default_model_offers_what_is_wanted(odd_client: httpx2.Client) -> None:
    assert post(odd_client, input="x", embedding_type="sparse")["model"] == "four-terms"
    assert post(odd_client, input="x", embedding_type="multi_vector")["model"] == "matryoshka"
    assert post(odd_client, input="x")["model"] == "matryoshka"
    error = refused(odd_client, input="x", embedding_type=["float", "sparse"])
    assert (
        "model 'four-terms' computes sparse vectors, not dense; models that compute dense vectors: " in error["message"]
    )


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (
            {"model": "matryoshka", "embedding_type": "sparse"},
            "embedding_type",
            "computes dense and multi_vector vectors, not sparse; models that compute sparse vectors: every-output",
        ),
        (
            {"model": "four-terms", "return_multivector": True},
            "return_multivector",
            "computes sparse vectors, not multi_vector",
        ),
        (
            {"model": "four-terms"},
            "embedding_type",
            "model 'four-terms' computes sparse vectors, not dense; models that compute dense vectors: ",
        ),
        ({"multi_vector_type": "int8"}, "multi_vector_type", "multi_vector_type needs multi_vector"),
        ({"return_tokens": True}, "return_tokens", "return_tokens needs multi_vector"),
        (
            {"return_multivector": True, "multi_vector_type": "int8"},
            "multi_vector_type",
            "with return_multivector, send embedding_type",
        ),
        ({"return_multivector": True, "embedding_type": ["float", "int8"]}, "embedding_type", "one number type"),
        ({"return_multivector": True, "embedding_type": "sparse"}, "embedding_type", "one number type"),
        ({"embedding_type": "sparse", "dimensions": 4}, "dimensions", "sparse vectors cannot be truncated"),
        ({"embedding_type": "multi_vector", "dimensions": 5}, "dimensions", "dimensions is 5; model"),
        (
            {"embedding_type": "multi_vector", "multi_vector_type": "binary", "dimensions": 4},
            "multi_vector_type",
            "binary and ubinary need a multiple of 8 dimensions, not 4",
        ),
        (
            {"embedding_type": "multi_vector", "multi_vector_type": "uint8", "normalized": False},
            "normalized",
            "int8 and uint8 need normalized vectors",
        ),
        (
            {"embedding_type": "dense"},
            "embedding_type",
            "embedding_type: 'dense' is not one of base64, binary, float, ",
        ),
    ],
)
def test_wrong_request_names_the_field(
    odd_client: httpx2.Client, body: dict[str, Any], param: str, message: str
) -> None:
    error = refused(odd_client, **{"model": MODEL, "input": "x"} | body)
    assert error["param"] == param
    assert message in error["message"]


def test_more_token_vectors_than_a_response_may_hold_are_refused(client: httpx2.Client) -> None:
    texts = ["shell " * 254] * 171  # 256 tokens each
    error = refused(client, 413, input=texts, model="all-minilm-l6-v2", embedding_type="multi_vector")
    assert error["message"] == (
        f"input has 43776 tokens, whose vectors of 384 dimensions hold 16809984 numbers; the limit is"
        f" {MAX_TOKEN_NUMBERS}"
    )
    assert error["param"] == "input"


def test_more_memory_than_all_responses_may_hold_is_refused(odd_client: httpx2.Client) -> None:
    error = refused(odd_client, 413, input=["a"] * 2048, model="slow")  # refused before it is computed
    needed = 2048 * 384 * NUMBER_BYTES
    assert error["message"] == f"{needed} bytes of responses exceed the memory limit of {2**23} bytes"


def test_sparse_vectors_that_may_be_cut_are_counted(odd_client: httpx2.Client) -> None:
    def counted() -> float:
        lines = odd_client.get("/metrics").text.splitlines()
        name = 'conch_sparse_truncated_total{model="four-terms"}'
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    before = counted()
    texts = ["a a a a", "x"]  # the ids of the first have no remainder of 0
    answer = post(odd_client, model="four-terms", input=texts, embedding_type="sparse")
    assert [len(item["embedding"]["indices"]) for item in answer["data"]] == [2, 2]
    assert counted() == before + 1


def test_teis_sparse_values(odd_client: httpx2.Client) -> None:
    response = odd_client.post("/embed_sparse", json={"inputs": ["a conch", "x"]})
    assert response.status_code == 200, response.text
    first, second = response.json()
    assert first == [{"index": 101, "value": 0.25}, {"index": 1037, "value": 0.5}, {"index": 2818, "value": 0.75}]
    assert second == [{"index": 101, "value": 0.25}, {"index": 102, "value": 0.5}]
    assert response.headers["x-compute-tokens"] == "8"
    assert odd_client.post("/embed_sparse", json={"inputs": "x"}).json() == [second]


def test_teis_token_vectors_are_those_of_the_model(client: httpx2.Client) -> None:
    response = client.post("/embed_all", json={"inputs": ["a conch is a sea snail", "brass"]})
    assert response.status_code == 200, response.text
    raw = post(client, input=["a conch is a sea snail", "brass"], embedding_type="multi_vector", normalized=False)
    assert response.json() == [item["embedding"] for item in raw["data"]]
    assert [len(vectors) for vectors in response.json()] == [9, 3]
    assert response.headers["x-compute-tokens"] == "12"


def test_embedding_is_the_mean_of_its_tokens(client: httpx2.Client) -> None:
    both = post(client, input="a conch is a sea snail", embedding_type=["float", "multi_vector"], normalized=False)
    vector = both["data"][0]["embedding"]
    assert np.mean(vector["multi_vector"], axis=0) == pytest.approx(np.array(vector["float"]), abs=1e-2)


def test_models_name_the_kinds_of_their_vectors(odd_client: httpx2.Client) -> None:
    models = {model["id"]: model for model in odd_client.get("/v1/models").json()["data"]}
    assert models[MODEL]["vectors"] == ["dense", "sparse", "multi_vector"]
    assert (models[MODEL]["dimensions"], models[MODEL]["supported_dimensions"]) == (8, [4, 8])
    assert (models[MODEL]["role"], models[MODEL]["model_type"]) == ("late-interaction", "embedding")
    assert models["four-terms"]["vectors"] == ["sparse"]
    assert "dimensions" not in models["four-terms"]
    assert "vectors" not in models["public-score"]
