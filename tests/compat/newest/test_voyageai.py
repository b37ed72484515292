import asyncio

import pytest
from voyageai import AsyncClient, Client
from voyageai.error import APIError, InvalidRequestError

from tests.compat.plain import (
    IMAGE_MODEL,
    LONG,
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

pytestmark = pytest.mark.client("voyageai", '`base_url="URL/v1"`')


@pytest.fixture
def client(url: str) -> Client:
    return Client(api_key="unused", base_url=f"{url}/v1")


@pytest.mark.call("`embed`: input_type, output_dimension, truncation")
def test_texts(client: Client, plain: Plain) -> None:
    answer = client.embed([*TEXTS, LONG], MODEL)
    assert_same(answer.embeddings, plain.embed([*TEXTS, LONG], truncate=True))
    assert answer.total_tokens == 286
    asked = client.embed(TEXTS, PROMPTED, input_type="query", output_dimension=64)
    assert_same(asked.embeddings, plain.embed(TEXTS, model=PROMPTED, task="query", dimensions=64))


@pytest.mark.call('`embed(output_dtype="int8")`, `"ubinary"`')
def test_types(client: Client, plain: Plain) -> None:
    for kind in ("int8", "ubinary"):
        assert client.embed(TEXTS, MODEL, output_dtype=kind).embeddings == plain.embed(TEXTS, embedding_type=kind)


@pytest.mark.call("`rerank`, `AsyncClient.rerank`")
def test_ranking(client: Client, url: str, plain: Plain) -> None:
    answer = client.rerank(QUERY, TEXTS, RERANKER, top_k=2)
    assert_ranked([(one.index, one.relevance_score) for one in answer.results], plain.rank()[:2])
    assert answer.total_tokens > 0
    asynchronous = AsyncClient(api_key="unused", base_url=f"{url}/v1")
    answer = asyncio.run(asynchronous.rerank(QUERY, TEXTS, RERANKER))
    assert_ranked([(one.index, one.relevance_score) for one in answer.results], plain.rank())


@pytest.mark.call("`multimodal_embed` of texts and images: input_type, output_dtype")
def test_texts_and_images(client: Client, plain: Plain) -> None:
    inputs = [
        {"content": [{"type": "text", "text": "red"}]},
        {"content": [{"type": "image_base64", "image_base64": PIXEL}]},
    ]
    answer = client.multimodal_embed(inputs, IMAGE_MODEL, input_type="query")
    given = ["red", {"image": PIXEL}]
    assert_same(answer.embeddings, plain.embed(given, model=IMAGE_MODEL))
    assert answer.total_tokens > answer.text_tokens > 0
    answer = client.multimodal_embed(inputs, IMAGE_MODEL, output_dtype="int8")
    assert answer.embeddings == plain.embed(given, model=IMAGE_MODEL, embedding_type="int8")


@pytest.mark.call("`contextualized_embed` of chunks, of chunk_fn's, and of queries")
def test_chunks(client: Client, plain: Plain) -> None:
    expected = plain.embed(TEXTS, late_chunking=True)
    answer = client.contextualized_embed([TEXTS, TEXTS[:2]], MODEL, input_type="document")
    assert_same(answer.results[0].embeddings, expected)
    assert_same(answer.results[1].embeddings, plain.embed(TEXTS[:2], late_chunking=True))
    assert answer.total_tokens > 0
    chunked = client.contextualized_embed([[" ".join(TEXTS)]], MODEL, chunk_fn=lambda _: TEXTS)
    assert_same(chunked.results[0].embeddings, expected)
    queries = client.contextualized_embed([[QUERY]], PROMPTED, input_type="query", output_dimension=64)
    assert_same(queries.results[0].embeddings, plain.embed([QUERY], model=PROMPTED, task="query", dimensions=64))


@pytest.mark.call("errors: `InvalidRequestError`, `APIError` with our message")
def test_errors(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match="has 402 tokens; the limit of model"):
        client.embed([LONG], MODEL, truncation=False)
    with pytest.raises(InvalidRequestError, match="enable_auto_chunking: send the chunks of each document"):
        client.contextualized_embed([["a"]], MODEL, input_type="document", enable_auto_chunking=True)
    with pytest.raises(APIError, match="there is no model 'voyage-9'"):
        client.embed(["a"], "voyage-9")
