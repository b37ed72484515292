import asyncio

import pytest
from infinity_client import AuthenticatedClient, Client
from infinity_client.api.default import classify, embeddings, rerank
from infinity_client.errors import UnexpectedStatus
from infinity_client.models import ClassifyInput, OpenAIEmbeddingInputImage, OpenAIEmbeddingInputText, RerankInput

from tests.compat.plain import (
    CLASSIFIER,
    IMAGE_MODEL,
    MODEL,
    PIXEL,
    QUERY,
    RERANKER,
    TEXTS,
    Plain,
    assert_ranked,
    assert_same,
)

pytestmark = pytest.mark.client("infinity-client", '`base_url="URL"` or `"URL/v1"`')

KEY = "compat-9"


@pytest.mark.call("`embeddings.sync`, `asyncio`, of texts")
@pytest.mark.parametrize("suffix", ["", "/v1"])
def test_embeddings(url: str, plain: Plain, suffix: str) -> None:
    client = Client(base_url=url + suffix, raise_on_unexpected_status=True)
    body = OpenAIEmbeddingInputText(input_=TEXTS, model=MODEL)
    expected = plain.embed(TEXTS)
    assert_same([one.embedding for one in embeddings.sync(client=client, body=body).data], expected)
    answer = asyncio.run(embeddings.asyncio(client=client, body=body))
    assert_same([one.embedding for one in answer.data], expected)


@pytest.mark.call("`embeddings.sync` of images")
def test_images(url: str, plain: Plain) -> None:
    body = OpenAIEmbeddingInputImage(input_=[PIXEL], model=IMAGE_MODEL)
    client = Client(base_url=url, raise_on_unexpected_status=True)
    (found,) = embeddings.sync(client=client, body=body).data
    assert_same([found.embedding], plain.embed([{"image": PIXEL}], model=IMAGE_MODEL))


@pytest.mark.call("`rerank.sync`")
def test_ranking(url: str, plain: Plain) -> None:
    client = Client(base_url=url, raise_on_unexpected_status=True)
    for with_documents in (False, True):
        body = RerankInput(query=QUERY, documents=TEXTS, model=RERANKER, top_n=2, return_documents=with_documents)
        answer = rerank.sync(client=client, body=body)
        assert_ranked([(one.index, one.relevance_score) for one in answer.results], plain.rank()[:2])


@pytest.mark.call("`classify.sync`, with and without `raw_scores`")
def test_labels(url: str, plain: Plain) -> None:
    client = Client(base_url=url, raise_on_unexpected_status=True)
    for raw in (False, True):
        answer = classify.sync(client=client, body=ClassifyInput(input_=TEXTS, model=CLASSIFIER, raw_scores=raw))
        found = [{one.label: one.score for one in scored} for scored in answer.data]
        for ours, theirs in zip(found, plain.classify(TEXTS, use_activation=not raw), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.call("a key with `AuthenticatedClient`; errors: `UnexpectedStatus` with our message")
def test_keys_and_errors(url: str, guarded_url: str) -> None:
    client = AuthenticatedClient(base_url=guarded_url, token=KEY, raise_on_unexpected_status=True)
    body = OpenAIEmbeddingInputText(input_=TEXTS, model=MODEL)
    assert len(embeddings.sync(client=client, body=body).data) == 3
    client = Client(base_url=url, raise_on_unexpected_status=True)
    with pytest.raises(UnexpectedStatus, match="there is no model 'x'"):
        rerank.sync(client=client, body=RerankInput(query=QUERY, documents=TEXTS, model="x"))
