import pytest
from haystack import Document
from haystack_integrations.components.embedders.ollama import OllamaDocumentEmbedder, OllamaTextEmbedder
from ollama import ResponseError

from tests.compat.plain import LONG, MODEL, TEXTS, Plain, assert_same

pytestmark = pytest.mark.client("ollama-haystack", '`url="URL"`')


@pytest.mark.call("`OllamaTextEmbedder`, `OllamaDocumentEmbedder` of 100 documents")
def test_texts(url: str, plain: Plain) -> None:
    embedder = OllamaTextEmbedder(model=MODEL, url=url)
    assert_same([embedder.run(text=LONG)["embedding"]], plain.embed([LONG], truncate=True))
    texts = [*TEXTS, *(f"text {i}" for i in range(97))]
    documents = OllamaDocumentEmbedder(model=MODEL, url=url).run([Document(content=text) for text in texts])[
        "documents"
    ]
    assert_same([document.embedding for document in documents], plain.embed(texts))


@pytest.mark.call("errors: `ResponseError` with our message")
def test_errors(url: str) -> None:
    with pytest.raises(ResponseError, match="there is no model 'nomic-embed-text'"):
        OllamaTextEmbedder(model="nomic-embed-text", url=url).run(text="a")
