import pytest
from langchain_community.document_compressors import jina_rerank
from langchain_community.document_compressors.jina_rerank import JinaRerank
from langchain_community.embeddings import jina
from langchain_community.embeddings.jina import JinaEmbeddings
from langchain_core.documents import Document

from tests.compat.plain import IMAGE_MODEL, MODEL, PIXEL, QUERY, RERANKER, TEXTS, Plain, assert_ranked, assert_same

pytestmark = pytest.mark.client(
    "langchain-community", '`JINA_API_URL = "URL/v1/..."` in the module of the class, which has no setting for it'
)


@pytest.fixture(autouse=True)
def addresses(url: str) -> None:
    jina_rerank.JINA_API_URL = f"{url}/v1/rerank"
    jina.JINA_API_URL = f"{url}/v1/embeddings"


@pytest.mark.call("`JinaRerank.rerank`, `compress_documents`")
def test_ranking(plain: Plain) -> None:
    reranker = JinaRerank(model=RERANKER, jina_api_key="unused", top_n=2)
    found = [(result["index"], result["relevance_score"]) for result in reranker.rerank(TEXTS, QUERY, top_n=None)]
    assert_ranked(found, plain.rank())
    documents = [Document(text, metadata={"number": i}) for i, text in enumerate(TEXTS)]
    best = reranker.compress_documents(documents, QUERY)
    assert_ranked([(one.metadata["number"], one.metadata["relevance_score"]) for one in best], plain.rank()[:2])


@pytest.mark.call("`JinaEmbeddings.embed_documents`, `embed_images`")
def test_embeddings(plain: Plain) -> None:
    texts = JinaEmbeddings(model_name=MODEL, jina_api_key="unused")
    assert_same(texts.embed_documents(TEXTS), plain.embed(TEXTS))
    images = JinaEmbeddings(model_name=IMAGE_MODEL, jina_api_key="unused")
    assert_same(images.embed_images([PIXEL]), plain.embed([{"image": PIXEL}], model=IMAGE_MODEL))


@pytest.mark.call("errors: `RuntimeError` with our message")
def test_errors() -> None:
    with pytest.raises(RuntimeError, match="there is no model 'jina-reranker-v1-base-en'"):
        JinaRerank(jina_api_key="unused").rerank(TEXTS, QUERY)
    with pytest.raises(RuntimeError, match="there is no model 'jina-embeddings-v2-base-en'"):
        JinaEmbeddings(jina_api_key="unused").embed_query("a")
