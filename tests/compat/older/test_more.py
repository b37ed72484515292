"""Clients whose only calls here are to embed texts and to rank documents."""

import pytest
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.embeddings.cohere import CohereEmbedding
from llama_index.postprocessor.cohere_rerank import CohereRerank
from semantic_router.encoders import JinaEncoder
from together import Together

from tests.compat.calls import Call, Embed, Rank, assert_embeds, assert_ranks, parameters
from tests.compat.plain import MODEL, PROMPTED, RERANKER, Plain, Vectors

KEY = "unused"
LIGHT = "embed-english-light-v3.0"
"""An alias of PROMPTED: the client takes Cohere's names only, and this one has 384 dimensions there too."""


def together(url: str, texts: list[str]) -> Vectors:
    answer = Together(base_url=url, api_key=KEY).embeddings.create(model=MODEL, input=texts)
    return [one.embedding for one in answer.data]


def together_rank(url: str, query: str, texts: list[str]) -> list[tuple[int, float]]:
    documents = [{"title": f"Nothing {i}", "text": text} for i, text in enumerate(texts)]
    client = Together(base_url=url, api_key=KEY)
    answer = client.rerank.create(model=RERANKER, query=query, documents=documents, rank_fields=["text"])
    return [(one.index, one.relevance_score) for one in answer.results]


def cohere_rank(url: str, query: str, texts: list[str]) -> list[tuple[int, float]]:
    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(i))) for i, text in enumerate(texts)]
    reranker = CohereRerank(top_n=3, model=RERANKER, api_key=KEY, base_url=url)
    return [(int(one.node.node_id), one.score) for one in reranker.postprocess_nodes(nodes, query_str=query)]


EMBEDDERS: list[Call[Embed]] = [
    Call("together", '`base_url="URL"`', "`embeddings.create`", together),
    Call(
        "semantic-router",
        '`base_url="URL/v1"`',
        "`JinaEncoder`",
        lambda url, texts: JinaEncoder(name=MODEL, api_key=KEY, base_url=f"{url}/v1")(texts),
    ),
    Call(
        "llama-index-embeddings-cohere",
        "`base_url=\"URL\"`, and one of Cohere's names as the model's alias",
        "`CohereEmbedding.get_text_embedding_batch`",
        lambda url, texts: CohereEmbedding(
            api_key=KEY, model_name=LIGHT, base_url=url, input_type="search_document"
        ).get_text_embedding_batch(texts),
        {"model": PROMPTED, "task": "document"},
    ),
]
RANKERS: list[Call[Rank]] = [
    Call("together", '`base_url="URL"`', "`rerank.create`, of objects with `rank_fields`", together_rank),
    Call(
        "llama-index-postprocessor-cohere-rerank",
        '`base_url="URL"`',
        "`CohereRerank.postprocess_nodes`",
        cohere_rank,
    ),
]


@pytest.mark.parametrize("call", parameters(EMBEDDERS))
def test_embeddings(call: Call[Embed], url: str, plain: Plain) -> None:
    assert_embeds(call, url, plain)


@pytest.mark.parametrize("call", parameters(RANKERS))
def test_rankings(call: Call[Rank], url: str, plain: Plain) -> None:
    assert_ranks(call, url, plain)
