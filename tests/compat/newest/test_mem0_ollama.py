import pytest
from mem0.configs.embeddings.base import BaseEmbedderConfig
from mem0.embeddings.ollama import OllamaEmbedding
from ollama import ResponseError

from tests.compat.plain import MODEL, TEXTS, Plain, assert_same

pytestmark = pytest.mark.client("mem0ai", '`ollama_base_url="URL"`')


@pytest.mark.call("embedder `ollama`: `embed`, `embed_batch`, by a name with and without a tag, and by an alias")
def test_texts(url: str, plain: Plain) -> None:
    for model in (MODEL, f"{MODEL}:latest", "text-embedding-3-small"):
        embedder = OllamaEmbedding(BaseEmbedderConfig(model=model, embedding_dims=384, ollama_base_url=url))
        assert_same([embedder.embed(TEXTS[0])], plain.embed(TEXTS[:1]))
        assert_same(embedder.embed_batch(TEXTS), plain.embed(TEXTS))


@pytest.mark.call("errors of embedder `ollama`: `ResponseError` with our message")
def test_errors(url: str) -> None:
    with pytest.raises(ResponseError, match="there is no model 'nomic-embed-text'"):
        OllamaEmbedding(BaseEmbedderConfig(ollama_base_url=url))
