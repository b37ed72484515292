import asyncio

import pytest
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

from tests.compat.plain import LONG, MODEL, TEXTS, Plain, assert_same

pytestmark = pytest.mark.client("llama-index-embeddings-text-embeddings-inference", '`base_url="URL"`')


@pytest.mark.call("`get_text_embedding_batch`, long texts truncated, async")
def test_texts(url: str, plain: Plain) -> None:
    embedding = TextEmbeddingsInference(model_name=MODEL, base_url=url, text_instruction="", query_instruction="")
    expected = plain.embed([*TEXTS, LONG], truncate=True)
    assert_same(embedding.get_text_embedding_batch([*TEXTS, LONG]), expected)
    assert_same(asyncio.run(embedding.aget_text_embedding_batch([*TEXTS, LONG])), expected)
