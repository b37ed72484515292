import asyncio

import pytest
from cohere.errors import NotFoundError
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.embedders.cohere import CohereDocumentEmbedder, CohereTextEmbedder
from haystack_integrations.components.rankers.cohere import CohereRanker

from tests.compat.plain import PROMPTED, QUERY, RERANKER, TEXTS, Plain, assert_ranked, assert_same

pytestmark = pytest.mark.client("cohere-haystack", '`api_base_url="URL"`')
KEY = Secret.from_token("unused")


@pytest.mark.call("`CohereTextEmbedder`")
def test_text(url: str, plain: Plain) -> None:
    found = CohereTextEmbedder(KEY, PROMPTED, api_base_url=url).run(TEXTS[0])
    assert_same([found["embedding"]], plain.embed(f"query: {TEXTS[0]}"))


@pytest.mark.call("`CohereDocumentEmbedder` of 100 documents, also async")
def test_documents(url: str, plain: Plain) -> None:
    texts = [f"text {i}" for i in range(100)]
    embedder = CohereDocumentEmbedder(KEY, PROMPTED, api_base_url=url, progress_bar=False)
    expected = plain.embed([f"passage: {text}" for text in texts])
    documents = embedder.run([Document(content=text) for text in texts])["documents"]
    assert_same([document.embedding for document in documents], expected)
    documents = asyncio.run(embedder.run_async([Document(content=text) for text in texts]))["documents"]
    assert_same([document.embedding for document in documents], expected)


@pytest.mark.call("`CohereRanker`")
def test_ranking(url: str, plain: Plain) -> None:
    documents = [Document(content=text, meta={"number": i}) for i, text in enumerate(TEXTS)]
    ranker = CohereRanker(RERANKER, top_k=2, api_key=KEY, api_base_url=url)
    best = ranker.run(QUERY, documents)["documents"]
    assert_ranked([(one.meta["number"], one.score) for one in best], plain.rank()[:2])


@pytest.mark.call("errors, as in `cohere`")
def test_errors(url: str) -> None:
    with pytest.raises(NotFoundError, match="there is no model 'x'"):
        CohereTextEmbedder(KEY, "x", api_base_url=url).run("a")
