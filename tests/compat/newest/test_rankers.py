"""Clients whose only call here is to rank documents."""

import asyncio

import pytest
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
from haystack_integrations.components.rankers.nvidia import NvidiaRanker
from lightrag.rerank import cohere_rerank
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.nvidia_rerank import NVIDIARerank
from llama_index.postprocessor.xinference_rerank import XinferenceRerank
from rerankers import Reranker

from tests.compat.calls import Call, Rank, assert_ranks, parameters
from tests.compat.plain import RERANKER, Plain

KEY = "unused"
SECRET = Secret.from_token(KEY)
Ranking = list[tuple[int, float]]


def of_nodes(found: list[NodeWithScore]) -> Ranking:
    return [(int(one.node.node_id), one.score) for one in found]


def nodes(texts: list[str]) -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text, id_=str(i))) for i, text in enumerate(texts)]


def of_documents(found: dict[str, list[Document]]) -> Ranking:
    return [(int(one.id), one.score) for one in found["documents"]]


def documents(texts: list[str]) -> list[Document]:
    return [Document(id=str(i), content=text) for i, text in enumerate(texts)]


def reranker(kind: str, path: str) -> Rank:
    """With the package `rerankers`, which has a dialect for each kind."""

    def rank(url: str, query: str, texts: list[str]) -> Ranking:
        found = Reranker(RERANKER, model_type=kind, url=url + path, api_key=KEY, verbose=0).rank(query, texts)
        return [(one.doc_id, one.score) for one in found.results]

    return rank


def lightrag(url: str, query: str, texts: list[str]) -> Ranking:
    found = asyncio.run(cohere_rerank(query, texts, api_key=KEY, model=RERANKER, base_url=f"{url}/v2/rerank"))
    return [(one["index"], one["relevance_score"]) for one in found]


CALLS: list[Call[Rank]] = [
    Call("rerankers", '`url="URL/v1/rerank"`', '`Reranker(model_type="cohere")`', reranker("cohere", "/v1/rerank")),
    Call("rerankers", '`url="URL/v1/rerank"`', '`Reranker(model_type="jina")`', reranker("jina", "/v1/rerank")),
    Call("rerankers", '`url="URL/v1/rerank"`', '`Reranker(model_type="voyage")`', reranker("voyage", "/v1/rerank")),
    Call(
        "rerankers",
        '`url="URL/rerank"`',
        '`Reranker(model_type="text-embeddings-inference")`',
        reranker("text-embeddings-inference", "/rerank"),
    ),
    Call("lightrag-hku", '`base_url="URL/v2/rerank"`', "`cohere_rerank`", lightrag),
    Call(
        "llama-index-postprocessor-nvidia-rerank",
        '`base_url="URL/v1"`',
        "`NVIDIARerank.postprocess_nodes`",
        lambda url, query, texts: of_nodes(
            NVIDIARerank(RERANKER, api_key=KEY, base_url=f"{url}/v1").postprocess_nodes(nodes(texts), query_str=query)
        ),
    ),
    Call(
        "llama-index-postprocessor-xinference-rerank",
        '`base_url="URL"`',
        "`XinferenceRerank.postprocess_nodes`",
        lambda url, query, texts: of_nodes(
            XinferenceRerank(model=RERANKER, base_url=url, top_n=3).postprocess_nodes(nodes(texts), query_str=query)
        ),
    ),
    Call(
        "huggingface-api-haystack",
        '`url="URL"`',
        "`HuggingFaceTEIRanker`",
        lambda url, query, texts: of_documents(
            HuggingFaceTEIRanker(url=url, token=SECRET).run(query=query, documents=documents(texts))
        ),
    ),
    Call(
        "nvidia-haystack",
        '`api_url="URL/v1"`',
        "`NvidiaRanker`",
        lambda url, query, texts: of_documents(
            NvidiaRanker(RERANKER, api_url=f"{url}/v1", api_key=SECRET).run(query=query, documents=documents(texts))
        ),
    ),
]


@pytest.mark.parametrize("call", parameters(CALLS))
def test_rankings(call: Call[Rank], url: str, plain: Plain) -> None:
    assert_ranks(call, url, plain)
