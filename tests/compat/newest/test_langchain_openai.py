import asyncio
from importlib.util import find_spec
from pathlib import Path

import pytest
from langchain_openai import OpenAIEmbeddings
from openai import BadRequestError, NotFoundError

from tests.compat.plain import LONG, MODEL, PROMPTED, TEXTS, Plain, assert_same

pytestmark = pytest.mark.client("langchain-openai", '`base_url="URL/v1"`, `check_embedding_ctx_length=False`')


def embeddings(url: str, model: str = MODEL, **options: object) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(
        base_url=f"{url}/v1", api_key="unused", model=model, **{"check_embedding_ctx_length": False, **options}
    )


@pytest.mark.call("`embed_documents`, `embed_query`")
def test_texts(url: str, plain: Plain) -> None:
    assert_same(embeddings(url).embed_documents(TEXTS), plain.embed(TEXTS))
    assert_same([embeddings(url).embed_query(TEXTS[0])], plain.embed(TEXTS[0]))


@pytest.mark.call("`embed_documents` of 2,500 texts, in calls of 1,000")
def test_many_texts(url: str, plain: Plain) -> None:
    texts = [f"text {i}" for i in range(2500)]
    found = embeddings(url).embed_documents(texts)
    assert len(found) == 2500
    assert_same(found[995:1005] + found[-5:], plain.embed(texts[995:1005] + texts[-5:]))


@pytest.mark.call("`aembed_documents`, `aembed_query`")
def test_async(url: str, plain: Plain) -> None:
    async def embed() -> list[list[float]]:
        return [*await embeddings(url).aembed_documents(TEXTS), await embeddings(url).aembed_query("a")]

    assert_same(asyncio.run(embed()), plain.embed([*TEXTS, "a"]))


@pytest.mark.call("`dimensions=64`; `model_kwargs`: input_type, truncate")
def test_fields(url: str, plain: Plain) -> None:
    small = embeddings(url, PROMPTED, dimensions=64).embed_documents(TEXTS)
    assert_same(small, plain.embed(TEXTS, model=PROMPTED, dimensions=64))
    query = {"extra_body": {"input_type": "query", "truncate": True}}
    asked = embeddings(url, PROMPTED, model_kwargs=query).embed_documents([*TEXTS, LONG])
    assert_same(asked, plain.embed([f"query: {text}" for text in [*TEXTS, LONG]], truncate=True))


@pytest.mark.call("errors, as in `openai`")
def test_errors(url: str) -> None:
    with pytest.raises(NotFoundError, match="there is no model 'gpt-5'"):
        embeddings(url, "gpt-5").embed_query("a")
    with pytest.raises(BadRequestError, match="has 402 tokens; the limit of model"):
        embeddings(url).embed_query(LONG)


@pytest.mark.call("with `check_embedding_ctx_length=True`: its cl100k ids are refused, with the reason")
@pytest.mark.parametrize("model", [MODEL, "text-embedding-3-small"])
def test_ids_of_another_tokenizer(url: str, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    litellm = find_spec("litellm")  # carries OpenAI's vocabulary, which is downloaded otherwise
    assert litellm is not None
    assert litellm.origin is not None
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(Path(litellm.origin).parent / "litellm_core_utils" / "tokenizers"))
    with pytest.raises(BadRequestError, match="check_embedding_ctx_length=False") as refused:
        embeddings(url, model, check_embedding_ctx_length=True).embed_documents(TEXTS)
    assert refused.value.param == "input[0]"
