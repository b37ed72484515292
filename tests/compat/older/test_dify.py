import pytest
from dify_plugin import OAICompatEmbeddingModel, OAICompatRerankModel
from dify_plugin.entities.model import EmbeddingInputType
from dify_plugin.errors.model import CredentialsValidateFailedError

from tests.compat.plain import IMAGE_MODEL, MODEL, PIXEL, QUERY, RERANKER, TEXTS, Plain, assert_ranked, assert_same

pytestmark = pytest.mark.client(
    "dify-plugin", 'in Dify, an OpenAI-API-compatible provider with the endpoint `"URL/v1"`'
)


class Embedding(OAICompatEmbeddingModel):  # type: ignore[misc]
    def _get_num_tokens_by_gpt2(self, text: str) -> int:
        return len(text.split())  # it cuts texts by GPT-2's vocabulary, which it would download


def credentials(url: str) -> dict[str, str]:
    return {"endpoint_url": f"{url}/v1", "api_key": "unused", "context_size": "256", "max_chunks": "32"}


@pytest.mark.call("`OAICompatEmbeddingModel`: validate, embed 100 texts")
def test_embeddings(url: str, plain: Plain) -> None:
    model = Embedding([])
    model.validate_credentials(MODEL, credentials(url))
    texts = [f"text {i}" for i in range(100)]
    answer = model.invoke(MODEL, credentials(url), texts, "user", EmbeddingInputType.QUERY)
    assert_same(answer.embeddings, plain.embed(texts))
    assert answer.usage.total_tokens == 400


@pytest.mark.call("`OAICompatRerankModel`: validate, rank")
def test_ranking(url: str, plain: Plain) -> None:
    model = OAICompatRerankModel([])
    model.validate_credentials(RERANKER, credentials(url))
    answer = model.invoke(RERANKER, credentials(url), QUERY, TEXTS, top_n=3)
    best = plain.rank()
    assert [(one.index, one.text) for one in answer.docs] == [(index, TEXTS[index]) for index, _ in best]
    least, most = best[-1][1], best[0][1]
    expected = [(score - least) / (most - least) for _, score in best]  # as Dify does
    assert [one.score for one in answer.docs] == pytest.approx(expected, abs=1e-2)


@pytest.mark.call("errors: `CredentialsValidateFailedError` with the status")
def test_errors(url: str) -> None:
    with pytest.raises(CredentialsValidateFailedError, match="404"):
        Embedding([]).validate_credentials("x", credentials(url))
    with pytest.raises(CredentialsValidateFailedError, match="404"):
        OAICompatRerankModel([]).validate_credentials("x", credentials(url))


@pytest.mark.call('requests of its Jina plugin, with the base URL `"URL/v1"`')
def test_requests_of_the_jina_plugin(plain: Plain) -> None:
    status, answer = plain.post(
        "/v1/embeddings",
        {"model": IMAGE_MODEL, "input": [{"text": "red"}, {"image": PIXEL}], "task": "retrieval.passage"},
        authorization="Bearer unused",
    )
    assert status == 200
    assert_same(
        [item["embedding"] for item in answer["data"]], plain.embed(["red", {"image": PIXEL}], model=IMAGE_MODEL)
    )
    assert answer["usage"]["total_tokens"] > 0
    documents = [{"text": text} for text in TEXTS]
    body = {"model": RERANKER, "query": QUERY, "documents": documents, "top_n": None, "return_documents": False}
    status, answer = plain.post("/v1/rerank", body, authorization="Bearer unused")
    assert status == 200
    assert_ranked([(one["index"], one["relevance_score"]) for one in answer["results"]], plain.rank())
    status, answer = plain.post("/v1/rerank", body | {"model": "x"})
    assert status == 404
    assert answer["detail"].startswith("there is no model 'x'")


@pytest.mark.call('requests of its TEI plugin, for embedding, with the server `"URL"`')
def test_requests_of_the_tei_plugin(plain: Plain) -> None:
    about = plain.get("/info")
    assert next(iter(about["model_type"])) == "embedding"
    assert (about["max_input_length"], about["max_client_batch_size"]) == (256, 2048)
    status, tokens = plain.post("/tokenize", {"inputs": TEXTS})
    assert (status, [len(text) for text in tokens]) == (200, [11, 11, 8])
    status, answer = plain.post("/v1/embeddings", {"input": TEXTS})
    assert status == 200
    assert_same([item["embedding"] for item in answer["data"]], plain.embed(TEXTS))
