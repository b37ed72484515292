import asyncio

import pytest
from langchain_ollama import OllamaEmbeddings
from ollama import ResponseError

from tests.compat.plain import LONG, MODEL, PROMPTED, TEXTS, Plain, assert_same

pytestmark = pytest.mark.client("langchain-ollama", '`base_url="URL"`')


@pytest.mark.call("`embed_documents` of 600 texts, `embed_query`, async, `validate_model_on_init`")
def test_texts(url: str, plain: Plain) -> None:
    embeddings = OllamaEmbeddings(model=MODEL, base_url=url, validate_model_on_init=True, keep_alive=300)
    texts = [f"text {i}" for i in range(600)]
    assert_same(embeddings.embed_documents(texts), plain.embed(texts))
    assert_same([embeddings.embed_query(LONG)], plain.embed([LONG], truncate=True))
    assert_same(asyncio.run(embeddings.aembed_documents(TEXTS)), plain.embed(TEXTS))


@pytest.mark.call("`dimensions`")
def test_dimensions(url: str, plain: Plain) -> None:
    embeddings = OllamaEmbeddings(model=PROMPTED, base_url=url, dimensions=64)
    assert_same(embeddings.embed_documents(TEXTS), plain.embed(TEXTS, model=PROMPTED, dimensions=64))


@pytest.mark.call("errors: `ResponseError` with our message")
def test_errors(url: str) -> None:
    with pytest.raises(ResponseError, match="there is no model 'llama3'"):
        OllamaEmbeddings(model="llama3", base_url=url).embed_query("a")
    with pytest.raises(ValueError, match="not found in Ollama"):
        OllamaEmbeddings(model="llama3", base_url=url, validate_model_on_init=True)
