import asyncio

import pytest
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from openai import NotFoundError

from tests.compat.plain import MODEL, PROMPTED, TEXTS, Plain, assert_same

pytestmark = pytest.mark.client("llama-index-embeddings-openai-like", '`api_base="URL/v1"`')


def embedding(url: str, model: str = MODEL, **options: object) -> OpenAILikeEmbedding:
    return OpenAILikeEmbedding(model_name=model, api_base=f"{url}/v1", max_retries=0, **options)


@pytest.mark.call("`get_text_embedding_batch` of 600 texts, `get_query_embedding`")
def test_texts(url: str, plain: Plain) -> None:
    texts = [f"text {i}" for i in range(600)]
    found = embedding(url, embed_batch_size=100).get_text_embedding_batch(texts)
    assert_same(found, plain.embed(texts))
    assert_same([embedding(url).get_query_embedding(TEXTS[0])], plain.embed(TEXTS[0]))


@pytest.mark.call("`aget_text_embedding_batch`")
def test_async(url: str, plain: Plain) -> None:
    found = asyncio.run(embedding(url, embed_batch_size=2).aget_text_embedding_batch(TEXTS))
    assert_same(found, plain.embed(TEXTS))


@pytest.mark.call('`dimensions`; `additional_kwargs={"extra_body": {"task": ...}}`')
def test_fields(url: str, plain: Plain) -> None:
    options = {"extra_body": {"task": "retrieval.query"}}
    found = embedding(url, PROMPTED, dimensions=128, additional_kwargs=options).get_text_embedding_batch(TEXTS)
    assert_same(found, plain.embed(TEXTS, model=PROMPTED, dimensions=128, task="retrieval.query"))


@pytest.mark.call("errors, as in `openai`")
def test_errors(url: str) -> None:
    with pytest.raises(NotFoundError, match="there is no model 'x'"):
        embedding(url, "x").get_text_embedding("a")
