"""Requests of clients that are no packages of Python, or that are whole applications: as their sources write them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tests.compat.plain import (
    CLASSIFIER,
    EVERY,
    LONG,
    MODEL,
    QUERY,
    RERANKER,
    TEXTS,
    Plain,
    assert_ranked,
    assert_same,
)


@dataclass(frozen=True)
class Recorded:
    """A request, and where it is from."""

    client: str
    version: str
    """A release, or the commit of `source`."""
    source: str
    path: str
    body: Mapping[str, Any]
    setting: str = 'the base URL `"URL/v1"`'


RAGFLOW = "infiniflow/ragflow"
WEKNORA = "Tencent/WeKnora"
MILVUS = "milvus-io/milvus"
RANK = {"model": RERANKER, "query": QUERY, "documents": TEXTS}
EMBED = {"model": MODEL, "input": TEXTS}

EMBEDDINGS = (
    Recorded(
        RAGFLOW,
        "0105193",
        "`OpenAIEmbed` of `rag/llm/embedding_model.py`",
        "/v1/embeddings",
        {**EMBED, "encoding_format": "float", "drop_params": True},
    ),
    Recorded(
        WEKNORA,
        "9f58326",
        "`OpenAIEmbedder` of `internal/models/embedding/openai.go`",
        "/v1/embeddings",
        {**EMBED, "truncate_prompt_tokens": 511},
    ),
    Recorded(
        MILVUS,
        "25ec72e",
        "`VLLMEmbedding` of `internal/util/function/models/vllm/vllm_client.go`",
        "/v1/embeddings",
        {"input": TEXTS, "encoding_format": "float", "truncate_prompt_tokens": 200},
        'the endpoint `"URL"`',
    ),
    Recorded(
        "pymilvus.model",
        "0.3.4",
        "`TEIEmbeddingFunction`",
        "/v1/embeddings",
        {"input": TEXTS},
        '`api_url="URL"`',
    ),
)
RANKINGS = (
    Recorded(
        RAGFLOW,
        "009e18f",
        "`XInferenceRerank` of `rag/llm/rerank_model.py`",
        "/v1/rerank",
        {**RANK, "return_documents": "true", "return_len": "true"},
        'the base URL `"URL/v1/rerank"`',
    ),
    Recorded(
        WEKNORA,
        "4aaa6e6",
        "`OpenAIReranker` of `internal/models/rerank/remote_api.go`",
        "/v1/rerank",
        {**RANK, "additional_data": None, "truncate_prompt_tokens": 511},
    ),
    Recorded(
        "open-webui/open-webui",
        "0668cb7",
        "`ExternalReranker` of `backend/open_webui/retrieval/models/external.py`",
        "/v1/rerank",
        {**RANK, "top_n": 3},
        'the external reranker `"URL/v1/rerank"`',
    ),
    Recorded(
        "open-webui/open-webui",
        "#8478",
        "the same, configured for SiliconFlow's API as in issue 8478",
        "/v1/rerank",
        {**RANK, "top_n": 3, "return_documents": False, "max_chunks_per_doc": 1024, "overlap_tokens": 80},
        'the external reranker `"URL/v1/rerank"`',
    ),
    Recorded(
        MILVUS,
        "25ec72e",
        "`VLLMRerank` of `internal/util/function/models/vllm/vllm_client.go`",
        "/rerank",
        {"query": QUERY, "documents": TEXTS, "truncate_prompt_tokens": 200},
        'the endpoint `"URL"`',
    ),
)
TEI_RANKINGS = (
    Recorded(
        MILVUS,
        "059bfd6",
        "`teiRerank` of `internal/util/function/models/tei/tei.go`",
        "/rerank",
        {"query": QUERY, "texts": TEXTS, "truncate": True, "truncation_direction": "Right"},
        'the endpoint `"URL"`',
    ),
    Recorded(
        "pymilvus.model",
        "0.3.4",
        "`TEIRerankFunction`",
        "/rerank",
        {"query": QUERY, "return_text": True, "texts": TEXTS},
        '`api_url="URL"`',
    ),
)
JINA = "jina-ai/meta-prompt"
VLLM = "vllm-project/vllm"
SCORES = tuple(
    Recorded(
        VLLM,
        "715dbad",
        "`examples/pooling/score/score_api_online.py`",
        "/score",
        {"model": RERANKER, "queries": queries, "documents": documents},
        '`api_url="URL/score"`',
    )
    for queries, documents in ((QUERY, TEXTS[0]), (QUERY, TEXTS), ([QUERY] * len(TEXTS), TEXTS))
)
MULTI_VECTORS = (
    Recorded(
        VLLM,
        "c6088cb",
        "`examples/pooling/token_embed/multi_vector_retrieval_online.py`",
        "/pooling",
        {"model": EVERY, "input": TEXTS},
        '`pooling_url="URL/pooling"`',
    ),
    Recorded(
        JINA,
        "6676f7a",
        "`return_multivector` of its Embeddings API",
        "/v1/embeddings",
        {"model": EVERY, "input": [{"text": text} for text in TEXTS], "return_multivector": True},
        'the URL `"URL/v1/embeddings"`',
    ),
)
CLASSIFICATIONS = (
    Recorded(
        VLLM,
        "3ff2de9",
        "`examples/pooling/classify/classification_online.py`, of texts",
        "/classify",
        {"model": CLASSIFIER, "input": TEXTS},
        '`classify_url="URL/classify"`',
    ),
)
LATE_CHUNKS = (
    Recorded(
        JINA,
        "6676f7a",
        "`late_chunking` of its Embeddings API",
        "/v1/embeddings",
        {"model": MODEL, "input": TEXTS, "late_chunking": True},
        'the URL `"URL/v1/embeddings"`',
    ),
)


def recorded(requests: tuple[Recorded, ...]) -> list[Any]:
    """Parameters, each with its own row of the table."""
    return [
        pytest.param(
            one,
            marks=[
                pytest.mark.client(one.client, one.setting, version=one.version),
                pytest.mark.call(f"requests of {one.source}"),
            ],
            id=f"{one.client}-{i}",
        )
        for i, one in enumerate(requests)
    ]


@pytest.mark.parametrize("request_", recorded(EMBEDDINGS))
def test_embeddings(plain: Plain, request_: Recorded) -> None:
    status, answer = plain.post(request_.path, request_.body, authorization="Bearer unused")
    assert status == 200, answer
    assert_same([one["embedding"] for one in answer["data"]], plain.embed(TEXTS))
    if "truncate_prompt_tokens" in request_.body:
        status, answer = plain.post(request_.path, {**request_.body, "input": [LONG]})
        assert status == 200, answer
        assert answer["usage"]["total_tokens"] == min(256, request_.body["truncate_prompt_tokens"])


@pytest.mark.parametrize("request_", recorded(RANKINGS))
def test_rankings(plain: Plain, request_: Recorded) -> None:
    status, answer = plain.post(request_.path, request_.body, authorization="Bearer unused")
    assert status == 200, answer
    assert_ranked([(one["index"], one["relevance_score"]) for one in answer["results"]], plain.rank())


@pytest.mark.parametrize("request_", recorded(TEI_RANKINGS))
def test_rankings_of_tei(plain: Plain, request_: Recorded) -> None:
    status, answer = plain.post(request_.path, request_.body, authorization="Bearer unused")
    assert status == 200, answer
    assert_ranked([(one["index"], one["score"]) for one in answer], plain.rank())
    if request_.body.get("return_text"):
        assert [one["text"] for one in answer] == [TEXTS[one["index"]] for one in answer]


@pytest.mark.parametrize("request_", recorded(SCORES))
def test_scores_of_vllm(plain: Plain, request_: Recorded) -> None:
    status, answer = plain.post(request_.path, request_.body, authorization="Bearer unused")
    assert status == 200, answer
    expected = dict(plain.rank())
    assert [one["score"] for one in answer["data"]] == pytest.approx(
        [expected[i] for i in range(len(answer["data"]))], abs=1e-3
    )


@pytest.mark.parametrize("request_", recorded(MULTI_VECTORS))
def test_multi_vectors(plain: Plain, request_: Recorded) -> None:
    status, answer = plain.post(request_.path, request_.body, authorization="Bearer unused")
    assert status == 200, answer
    for one, expected in zip(answer["data"], plain.kinds(TEXTS), strict=True):
        found = np.array(one["embeddings" if "embeddings" in one else "data"])
        assert_same(found.tolist(), expected.tokens.tolist())


@pytest.mark.parametrize("request_", recorded(CLASSIFICATIONS))
def test_classifications(plain: Plain, request_: Recorded) -> None:
    status, answer = plain.post(request_.path, request_.body, authorization="Bearer unused")
    assert status == 200, answer
    status, predicted = plain.post("/predict", {"inputs": [[text] for text in TEXTS]})
    assert status == 200, predicted
    for one, labels in zip(answer["data"], predicted, strict=True):
        assert sum(one["probs"]) == pytest.approx(1)
        assert (one["label"], max(one["probs"])) == (labels[0]["label"], pytest.approx(labels[0]["score"]))


@pytest.mark.parametrize("request_", recorded(LATE_CHUNKS))
def test_late_chunks(plain: Plain, request_: Recorded) -> None:
    status, answer = plain.post(request_.path, request_.body, authorization="Bearer unused")
    assert status == 200, answer
    alone = np.array(plain.embed(TEXTS))
    together = np.array([one["embedding"] for one in answer["data"]])
    assert ((alone * together).sum(1) < 0.999).all()  # each knows the others
    status, answer = plain.post(request_.path, {**request_.body, "input": TEXTS[:1]})
    assert_same([one["embedding"] for one in answer["data"]], plain.embed(TEXTS[:1]))
