import asyncio

import pytest
from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.utils import Secret
from openai import NotFoundError

from tests.compat.plain import MODEL, PROMPTED, TEXTS, Plain, assert_same

pytestmark = pytest.mark.client("haystack-ai", '`api_base_url="URL/v1"`')
KEY = Secret.from_token("unused")


@pytest.mark.call("`OpenAITextEmbedder`")
def test_text(url: str, plain: Plain) -> None:
    answer = OpenAITextEmbedder(KEY, model=MODEL, api_base_url=f"{url}/v1").run(text=TEXTS[0])
    assert_same([answer["embedding"]], plain.embed(TEXTS[0]))
    assert answer["meta"]["usage"]["total_tokens"] == 11


@pytest.mark.call("`OpenAIDocumentEmbedder` of 200 documents, `dimensions`, async")
def test_documents(url: str, plain: Plain) -> None:
    texts = [f"text {i}" for i in range(200)]
    embedder = OpenAIDocumentEmbedder(
        KEY, model=PROMPTED, api_base_url=f"{url}/v1", dimensions=64, progress_bar=False, prefix="query: "
    )
    expected = plain.embed([f"query: {text}" for text in texts], model=PROMPTED, dimensions=64)
    documents = embedder.run([Document(content=text) for text in texts])["documents"]
    assert_same([document.embedding for document in documents], expected)
    documents = asyncio.run(embedder.run_async([Document(content=text) for text in texts[:5]]))["documents"]
    assert_same([document.embedding for document in documents], expected[:5])


@pytest.mark.call("errors, as in `openai`")
def test_errors(url: str) -> None:
    with pytest.raises(NotFoundError, match="there is no model 'gpt-5'"):
        OpenAITextEmbedder(KEY, model="gpt-5", api_base_url=f"{url}/v1").run(text="a")
