import asyncio

import pytest
from mixedbread import AsyncMixedbread, BadRequestError, Mixedbread, NotFoundError

from tests.compat.plain import MODEL, QUERY, RERANKER, TEXTS, Plain, assert_ranked, assert_same

pytestmark = pytest.mark.client("mixedbread", '`base_url="URL"`')


@pytest.fixture
def client(url: str) -> Mixedbread:
    return Mixedbread(api_key="unused", base_url=url, max_retries=0)


@pytest.mark.call("`embed`")
def test_texts(client: Mixedbread, plain: Plain) -> None:
    answer = client.embed(model=MODEL, input=TEXTS)
    assert_same([one.embedding for one in answer.data], plain.embed(TEXTS))


@pytest.mark.call("`rerank`: top_k, return_input, rank_fields, async")
def test_ranking(client: Mixedbread, url: str, plain: Plain) -> None:
    answer = client.rerank(model=RERANKER, query=QUERY, input=TEXTS, top_k=2, return_input=True)
    assert_ranked([(one.index, one.score) for one in answer.data], plain.rank()[:2])
    assert [one.input for one in answer.data] == [TEXTS[one.index] for one in answer.data]
    assert answer.usage.total_tokens > 0
    asynchronous = AsyncMixedbread(api_key="unused", base_url=url)
    objects = [{"content": text} for text in TEXTS]
    answer = asyncio.run(asynchronous.rerank(model=RERANKER, query=QUERY, input=objects, rank_fields=["content"]))
    assert_ranked([(one.index, one.score) for one in answer.data], plain.rank())


@pytest.mark.call("errors: `NotFoundError`, `BadRequestError` with our message")
def test_errors(client: Mixedbread) -> None:
    with pytest.raises(NotFoundError, match="there is no model 'mxbai-rerank-large-v2'"):
        client.rerank(model="mxbai-rerank-large-v2", query=QUERY, input=TEXTS)
    with pytest.raises(BadRequestError, match="rewrite_query: queries are ranked as they are"):
        client.rerank(query=QUERY, input=TEXTS, rewrite_query=True)
