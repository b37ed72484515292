import pytest
from xinference_client import RESTfulClient

from tests.compat.plain import MODEL, QUERY, RERANKER, TEXTS, Plain, assert_ranked, assert_same

pytestmark = pytest.mark.client("xinference-client", '`RESTfulClient("URL")`')


@pytest.mark.call("`get_model(...).create_embedding`")
def test_embeddings(url: str, plain: Plain) -> None:
    answer = RESTfulClient(url).get_model(MODEL).create_embedding(TEXTS)
    assert_same([one["embedding"] for one in answer["data"]], plain.embed(TEXTS))


@pytest.mark.call("`get_model(...).rerank`")
def test_ranking(url: str, plain: Plain) -> None:
    model = RESTfulClient(url).get_model(RERANKER)
    for fields in ({}, {"top_n": 2, "return_documents": True, "return_len": True, "max_chunks_per_doc": 3}):
        results = model.rerank(TEXTS, QUERY, **fields)["results"]
        expected = plain.rank()[: fields.get("top_n")]
        assert_ranked([(one["index"], one["relevance_score"]) for one in results], expected)


@pytest.mark.call("errors: `RuntimeError` with our message")
def test_errors(url: str) -> None:
    with pytest.raises(RuntimeError, match="there is no model 'x'"):
        RESTfulClient(url).get_model("x")
    with pytest.raises(RuntimeError, match="query"):
        RESTfulClient(url).get_model(RERANKER).rerank(TEXTS, "")
