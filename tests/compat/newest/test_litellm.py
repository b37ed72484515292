import asyncio

import litellm
import pytest
from litellm.exceptions import BadRequestError, NotFoundError

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

pytestmark = pytest.mark.client("litellm", "`api_base`: see each call")

litellm.telemetry = False


def vectors(answer: litellm.EmbeddingResponse) -> list[list[float]]:
    return [item["embedding"] for item in answer.data]


def ranking(answer: litellm.RerankResponse) -> list[tuple[int, float]]:
    return [(result["index"], result["relevance_score"]) for result in answer.results]


@pytest.mark.call('`embedding("openai/...")`, `api_base="URL/v1"`')
def test_openai(url: str, plain: Plain) -> None:
    common = {"api_base": f"{url}/v1", "api_key": "unused"}
    answer = litellm.embedding(f"openai/{MODEL}", input=TEXTS, **common)
    assert_same(vectors(answer), plain.embed(TEXTS))
    assert answer.usage.prompt_tokens == 30
    texts = [f"text {i}" for i in range(600)]
    assert_same(vectors(litellm.embedding(f"openai/{MODEL}", input=texts, **common)), plain.embed(texts))
    fields = {"dimensions": 64, "allowed_openai_params": ["dimensions"], "task": "retrieval.query"}
    small = litellm.embedding(f"openai/{PROMPTED}", input=TEXTS, **fields, **common)
    assert_same(vectors(small), plain.embed(TEXTS, model=PROMPTED, dimensions=64, task="retrieval.query"))


@pytest.mark.call("`aembedding`")
def test_async(url: str, plain: Plain) -> None:
    answer = asyncio.run(litellm.aembedding(f"openai/{MODEL}", input=TEXTS, api_base=f"{url}/v1", api_key="unused"))
    assert_same(vectors(answer), plain.embed(TEXTS))


@pytest.mark.call('`embedding("cohere/...")`, `api_base="URL/v2/embed"`')
def test_cohere(url: str, plain: Plain) -> None:
    common = {"api_base": f"{url}/v2/embed", "api_key": "unused"}
    answer = litellm.embedding(f"cohere/{PROMPTED}", input=TEXTS, input_type="search_query", **common)
    assert_same(vectors(answer), plain.embed([f"query: {text}" for text in TEXTS]))
    assert answer.usage.prompt_tokens > 0
    small = litellm.embedding(f"cohere/{PROMPTED}", input=TEXTS, input_type="search_query", dimensions=64, **common)
    assert_same(vectors(small), plain.embed(TEXTS, model=PROMPTED, dimensions=64, input_type="query"))


@pytest.mark.call('`embedding("jina_ai/...")`, texts and images, `api_base="URL/v1"`')
def test_jina(url: str, plain: Plain) -> None:
    common = {"api_base": f"{url}/v1", "api_key": "unused"}
    answer = litellm.embedding(f"jina_ai/{MODEL}", input=TEXTS, **common)
    assert_same(vectors(answer), plain.embed(TEXTS))
    mixed = litellm.embedding(f"jina_ai/{IMAGE_MODEL}", input=["red", PIXEL], **common)
    assert_same(vectors(mixed), plain.embed(["red", {"image": PIXEL}], model=IMAGE_MODEL))


@pytest.mark.call('`embedding("azure/...")`, `api_base="URL"`')
def test_azure(url: str, plain: Plain) -> None:
    common = {"api_base": url, "api_key": "unused", "api_version": "2024-10-21"}
    answer = litellm.embedding(f"azure/{MODEL}", input=TEXTS, **common)
    assert_same(vectors(answer), plain.embed(TEXTS))


@pytest.mark.call('`embedding("infinity/...")`, `api_base="URL"` or `"URL/v1"`')
@pytest.mark.parametrize("path", ["", "/v1"])
def test_infinity(url: str, plain: Plain, path: str) -> None:
    common = {"api_base": url + path, "api_key": "unused"}
    answer = litellm.embedding(f"infinity/{MODEL}", input=TEXTS, **common)
    assert_same(vectors(answer), plain.embed(TEXTS))
    assert answer.usage.prompt_tokens == 30
    small = litellm.embedding(f"infinity/{PROMPTED}", input=TEXTS, dimensions=64, **common)
    assert_same(vectors(small), plain.embed(TEXTS, model=PROMPTED, dimensions=64))


@pytest.mark.call('`embedding("huggingface/...", input_type="feature-extraction")`, `api_base="URL/embed"`')
def test_huggingface(url: str, plain: Plain) -> None:
    common = {"api_base": f"{url}/embed", "api_key": "unused", "input_type": "feature-extraction"}
    answer = litellm.embedding(f"huggingface/{MODEL}", input=TEXTS, **common)
    assert_same(vectors(answer), plain.embed(TEXTS))


@pytest.mark.call('`embedding("hosted_vllm/...")`, `api_base="URL/v1"`')
def test_vllm_embeddings(url: str, plain: Plain) -> None:
    common = {"api_base": f"{url}/v1", "api_key": "unused"}
    answer = litellm.embedding(f"hosted_vllm/{MODEL}", input=TEXTS, **common)
    assert_same(vectors(answer), plain.embed(TEXTS))
    assert answer.usage.prompt_tokens == 30


@pytest.mark.call('`embedding("voyage/...")`, `api_base="URL/v1"`')
def test_voyage(url: str, plain: Plain) -> None:
    common = {"api_base": f"{url}/v1", "api_key": "unused"}
    answer = litellm.embedding(f"voyage/{PROMPTED}", input=TEXTS, dimensions=64, input_type="query", **common)
    assert_same(vectors(answer), plain.embed(TEXTS, model=PROMPTED, dimensions=64, task="query"))


@pytest.mark.call('`rerank("cohere/...")`, `api_base="URL"`')
def test_cohere_ranking(url: str, plain: Plain) -> None:
    answer = litellm.rerank(f"cohere/{RERANKER}", QUERY, TEXTS, top_n=2, api_base=url, api_key="unused")
    assert_ranked(ranking(answer), plain.rank()[:2])


@pytest.mark.call('`rerank("jina_ai/...")`, `api_base="URL"`')
@pytest.mark.parametrize("path", ["", "/v1"])
def test_jina_ranking(url: str, plain: Plain, path: str) -> None:
    answer = litellm.rerank(f"jina_ai/{RERANKER}", QUERY, TEXTS, top_n=2, api_base=url + path, api_key="unused")
    assert_ranked(ranking(answer), plain.rank()[:2])
    assert answer.results[0]["document"] == {"text": TEXTS[answer.results[0]["index"]]}


@pytest.mark.call('`rerank("infinity/...", return_documents=False)`, `arerank`, `api_base="URL"` or `"URL/v1"`')
@pytest.mark.parametrize("path", ["", "/v1"])
def test_infinity_ranking(url: str, plain: Plain, path: str) -> None:
    common = {"api_base": url + path, "api_key": "unused", "return_documents": False}
    answer = litellm.rerank(f"infinity/{RERANKER}", QUERY, TEXTS, top_n=2, **common)
    assert_ranked(ranking(answer), plain.rank()[:2])
    assert answer.meta["tokens"]["input_tokens"] > 0
    answer = asyncio.run(litellm.arerank(f"infinity/{RERANKER}", QUERY, TEXTS, **common))
    assert_ranked(ranking(answer), plain.rank())


@pytest.mark.call('`rerank("hosted_vllm/...")`, `api_base="URL"` or `"URL/v1"`')
@pytest.mark.parametrize("path", ["", "/v1"])
def test_vllm_ranking(url: str, plain: Plain, path: str) -> None:
    answer = litellm.rerank(f"hosted_vllm/{RERANKER}", QUERY, TEXTS, top_n=2, api_base=url + path, api_key="unused")
    assert_ranked(ranking(answer), plain.rank()[:2])


@pytest.mark.call('`rerank("voyage/...")`, `api_base="URL/v1"`')
def test_voyage_ranking(url: str, plain: Plain) -> None:
    answer = litellm.rerank(f"voyage/{RERANKER}", QUERY, TEXTS, top_n=2, api_base=f"{url}/v1", api_key="unused")
    assert_ranked(ranking(answer), plain.rank()[:2])


@pytest.mark.call('`rerank("huggingface/...")`, `api_base="URL"`')
def test_huggingface_ranking(url: str, plain: Plain) -> None:
    answer = litellm.rerank(f"huggingface/{RERANKER}", QUERY, TEXTS, api_base=url, api_key="unused")
    assert_ranked(ranking(answer), plain.rank())


@pytest.mark.call("errors: `BadRequestError`, `NotFoundError` with our message")
def test_errors(url: str) -> None:
    common = {"api_base": f"{url}/v1", "api_key": "unused", "max_retries": 0}
    with pytest.raises(NotFoundError, match="there is no model 'gpt-5'"):
        litellm.embedding("openai/gpt-5", input=["a"], **common)
    with pytest.raises(BadRequestError, match="has 402 tokens; the limit of model"):
        litellm.embedding(f"openai/{MODEL}", input=[LONG], **common)
    with pytest.raises(NotFoundError, match="there is no model 'x'"):
        litellm.rerank("cohere/x", QUERY, TEXTS, api_base=url, api_key="unused")
