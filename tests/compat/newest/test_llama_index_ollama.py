import asyncio

import pytest
from llama_index.embeddings.ollama import OllamaEmbedding
from ollama import ResponseError

from tests.compat.plain import LONG, MODEL, TEXTS, Plain, assert_same

pytestmark = pytest.mark.client("llama-index-embeddings-ollama", '`base_url="URL"`')


@pytest.mark.call("`get_text_embedding_batch` of 600 texts, `get_query_embedding`, async")
def test_texts(url: str, plain: Plain) -> None:
    embedding = OllamaEmbedding(model_name=f"{MODEL}:latest", base_url=url, ollama_additional_kwargs={"mirostat": 0})
    texts = [f"text {i}" for i in range(600)]
    assert_same(embedding.get_text_embedding_batch(texts), plain.embed(texts))
    assert_same([embedding.get_query_embedding(LONG)], plain.embed([LONG], truncate=True))
    assert_same(asyncio.run(embedding.aget_text_embedding_batch(TEXTS)), plain.embed(TEXTS))


@pytest.mark.call("errors: `ResponseError` with our message")
def test_errors(url: str) -> None:
    with pytest.raises(ResponseError, match="there is no model 'llama3'"):
        OllamaEmbedding(model_name="llama3", base_url=url).get_query_embedding("a")
