import asyncio

import pytest
from cohere.errors import NotFoundError
from langchain_cohere import CohereEmbeddings, CohereRerank
from langchain_core.documents import Document

from tests.compat.plain import PROMPTED, QUERY, RERANKER, TEXTS, Plain, assert_ranked, assert_same

pytestmark = pytest.mark.client("langchain-cohere", '`base_url="URL"`')


@pytest.mark.call("`CohereEmbeddings.embed_query`, `embed_documents` of 250 texts")
def test_embeddings(url: str, plain: Plain) -> None:
    embeddings = CohereEmbeddings(model=PROMPTED, base_url=url, cohere_api_key="unused")
    texts = [f"text {i}" for i in range(250)]
    assert_same(embeddings.embed_documents(texts), plain.embed([f"passage: {text}" for text in texts]))
    assert_same([embeddings.embed_query("a")], plain.embed("query: a"))


@pytest.mark.call("`CohereEmbeddings.aembed_documents`")
def test_async(url: str, plain: Plain) -> None:
    embeddings = CohereEmbeddings(model=PROMPTED, base_url=url, cohere_api_key="unused")
    found = asyncio.run(embeddings.aembed_documents(TEXTS))
    assert_same(found, plain.embed([f"passage: {text}" for text in TEXTS]))


@pytest.mark.call("`CohereRerank.rerank`, `compress_documents`")
def test_ranking(url: str, plain: Plain) -> None:
    reranker = CohereRerank(model=RERANKER, base_url=url, cohere_api_key="unused", top_n=2)
    found = [(result["index"], result["relevance_score"]) for result in reranker.rerank(TEXTS, QUERY, top_n=None)]
    assert_ranked(found, plain.rank())
    documents = [Document(text, metadata={"number": i}) for i, text in enumerate(TEXTS)]
    best = reranker.compress_documents(documents, QUERY)
    assert_ranked([(one.metadata["number"], one.metadata["relevance_score"]) for one in best], plain.rank()[:2])


@pytest.mark.call("errors, as in `cohere`")
def test_errors(url: str) -> None:
    with pytest.raises(NotFoundError, match="there is no model 'x'"):
        CohereRerank(model="x", base_url=url, cohere_api_key="unused").rerank(TEXTS, QUERY)
