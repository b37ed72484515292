import asyncio

import pytest
from voyageai import AsyncClient, Client
from voyageai.error import APIError, InvalidRequestError

from tests.compat.plain import LONG, MODEL, PROMPTED, QUERY, RERANKER, TEXTS, Plain, assert_ranked, assert_same

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


@pytest.mark.call("errors: `InvalidRequestError`, `APIError` with our message")
def test_errors(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match="has 402 tokens; the limit of model"):
        client.embed([LONG], MODEL, truncation=False)
    with pytest.raises(APIError, match="there is no model 'voyage-9'"):
        client.embed(["a"], "voyage-9")
