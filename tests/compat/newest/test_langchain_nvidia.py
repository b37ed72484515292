import asyncio

import pytest
from langchain_core.documents import Document
from langchain_nvidia_ai_endpoints import NVIDIAEmbeddings, NVIDIARerank

from tests.compat.plain import LONG, PROMPTED, QUERY, RERANKER, TEXTS, Plain, assert_ranked, assert_same

pytestmark = pytest.mark.client("langchain-nvidia-ai-endpoints", '`base_url="URL/v1"`')


@pytest.mark.call("`NVIDIAEmbeddings.embed_documents` of 200 texts, `embed_query`, `dimensions`, async")
def test_embeddings(url: str, plain: Plain) -> None:
    embeddings = NVIDIAEmbeddings(model=PROMPTED, base_url=f"{url}/v1")
    texts = [f"text {i}" for i in range(200)]
    assert_same(embeddings.embed_documents(texts), plain.embed([f"passage: {text}" for text in texts]))
    assert_same([embeddings.embed_query("a")], plain.embed("query: a"))
    assert_same([asyncio.run(embeddings.aembed_query("a"))], plain.embed("query: a"))
    small = NVIDIAEmbeddings(model=PROMPTED, base_url=f"{url}/v1", dimensions=64)
    assert_same([small.embed_query("a")], plain.embed("a", model=PROMPTED, task="query", dimensions=64))


@pytest.mark.call('`truncate="END"`; errors with our message')
def test_truncation(url: str, plain: Plain) -> None:
    cutting = NVIDIAEmbeddings(model=PROMPTED, base_url=f"{url}/v1", truncate="END")
    assert_same([cutting.embed_query(LONG)], plain.embed(f"query: {LONG}", truncate=True))
    with pytest.raises(Exception, match="tokens; the limit of model 'prompted' is 256"):
        NVIDIAEmbeddings(model=PROMPTED, base_url=f"{url}/v1", truncate="NONE").embed_query(LONG)


@pytest.mark.call("`NVIDIARerank.compress_documents`")
def test_ranking(url: str, plain: Plain) -> None:
    documents = [Document(text, metadata={"number": i}) for i, text in enumerate(TEXTS)]
    reranker = NVIDIARerank(model=RERANKER, base_url=f"{url}/v1", top_n=2)
    best = reranker.compress_documents(documents, QUERY)
    assert_ranked([(one.metadata["number"], one.metadata["relevance_score"]) for one in best], plain.rank()[:2])
