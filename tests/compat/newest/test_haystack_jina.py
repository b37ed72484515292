import asyncio
from base64 import b64decode
from pathlib import Path

import pytest
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.embedders.jina import (
    JinaDocumentEmbedder,
    JinaDocumentImageEmbedder,
    JinaTextEmbedder,
)
from haystack_integrations.components.rankers.jina import JinaRanker

from tests.compat.plain import (
    IMAGE_MODEL,
    MODEL,
    PIXEL,
    PROMPTED,
    QUERY,
    RERANKER,
    TEXTS,
    Plain,
    assert_ranked,
    assert_same,
)

pytestmark = pytest.mark.client("jina-haystack", '`base_url="URL/v1/embeddings"` or `"URL/v1/rerank"`')
KEY = Secret.from_token("unused")


@pytest.mark.call("`JinaTextEmbedder`, with task and dimensions")
def test_text(url: str, plain: Plain) -> None:
    embedder = JinaTextEmbedder(KEY, PROMPTED, task="retrieval.query", dimensions=64, base_url=f"{url}/v1/embeddings")
    expected = plain.embed(TEXTS[0], model=PROMPTED, task="retrieval.query", dimensions=64)
    assert_same([embedder.run(TEXTS[0])["embedding"]], expected)


@pytest.mark.call("`JinaDocumentEmbedder` of 100 documents")
def test_documents(url: str, plain: Plain) -> None:
    texts = [f"text {i}" for i in range(100)]
    embedder = JinaDocumentEmbedder(KEY, MODEL, progress_bar=False, base_url=f"{url}/v1/embeddings")
    documents = embedder.run([Document(content=text) for text in texts])["documents"]
    assert_same([document.embedding for document in documents], plain.embed(texts))


@pytest.mark.call("`JinaDocumentImageEmbedder`")
def test_images(url: str, plain: Plain, tmp_path: Path) -> None:
    file = tmp_path / "pixel.png"
    file.write_bytes(b64decode(PIXEL.partition(",")[2]))
    embedder = JinaDocumentImageEmbedder(api_key=KEY, model=IMAGE_MODEL, base_url=f"{url}/v1/embeddings")
    (document,) = embedder.run([Document(content="", meta={"file_path": str(file)})])["documents"]
    assert_same([document.embedding], plain.embed([{"image": PIXEL}], model=IMAGE_MODEL))


@pytest.mark.call("`JinaRanker`, also async")
def test_ranking(url: str, plain: Plain) -> None:
    ranker = JinaRanker(RERANKER, KEY, top_k=2, base_url=f"{url}/v1/rerank")
    documents = [Document(content=text, meta={"number": i}) for i, text in enumerate(TEXTS)]
    for answer in (ranker.run(QUERY, documents), asyncio.run(ranker.run_async(QUERY, documents))):
        assert_ranked([(one.meta["number"], one.score) for one in answer["documents"]], plain.rank()[:2])
        assert answer["meta"]["model"] == RERANKER


@pytest.mark.call("errors: `RuntimeError` with our message")
def test_errors(url: str) -> None:
    with pytest.raises(RuntimeError, match="there is no model 'x'"):
        JinaTextEmbedder(KEY, "x", base_url=f"{url}/v1/embeddings").run("a")
