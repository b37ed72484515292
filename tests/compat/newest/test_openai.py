import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from openai import (
    AsyncOpenAI,
    AuthenticationError,
    BadRequestError,
    NotFoundError,
    OpenAI,
    RateLimitError,
)

from tests.compat.plain import IMAGE_MODEL, LONG, MODEL, PIXEL, PROMPTED, TEXTS, Plain, assert_same

pytestmark = pytest.mark.client("openai", '`base_url="URL/v1"`')


@pytest.fixture
def sdk(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="unused") as client:
        yield client


@pytest.mark.call("`embeddings.create`")
def test_base64_that_it_asks_for_by_itself(sdk: OpenAI, plain: Plain) -> None:
    answer = sdk.embeddings.create(model="text-embedding-3-small", input=TEXTS)
    assert_same([item.embedding for item in answer.data], plain.embed(TEXTS))
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert answer.model == MODEL
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 30


@pytest.mark.call('`embeddings.create(encoding_format="float")`')
def test_floats(sdk: OpenAI, plain: Plain) -> None:
    answer = sdk.embeddings.create(model=MODEL, input=TEXTS[0], encoding_format="float")
    assert_same([answer.data[0].embedding], plain.embed(TEXTS[0]))


@pytest.mark.call("`embeddings.create(dimensions=64)`")
def test_dimensions(sdk: OpenAI, plain: Plain) -> None:
    answer = sdk.embeddings.create(model=PROMPTED, input=TEXTS, dimensions=64)
    assert_same([item.embedding for item in answer.data], plain.embed(TEXTS, model=PROMPTED, dimensions=64))
    with pytest.raises(BadRequestError, match="supports 64, 128, 384") as refused:
        sdk.embeddings.create(model=PROMPTED, input=TEXTS, dimensions=65)
    assert refused.value.param == "dimensions"


@pytest.mark.call("`embeddings.create` of the model's own token ids")
def test_token_ids(sdk: OpenAI, plain: Plain) -> None:
    ids = [[101, 1037, 9530, 2818, 102], [101, 102]]
    answer = sdk.embeddings.create(model=MODEL, input=ids)
    assert_same([item.embedding for item in answer.data], plain.embed(["a conch", ""][:1]) + plain.embed([[101, 102]]))


@pytest.mark.call("images: `data:` URIs in `input`, objects by `extra_body`")
def test_images(sdk: OpenAI, plain: Plain) -> None:
    alone = sdk.embeddings.create(model=IMAGE_MODEL, input=["red", PIXEL])
    assert_same([item.embedding for item in alone.data], plain.embed(["red", {"image": PIXEL}], model=IMAGE_MODEL))
    given = [{"image": PIXEL}, {"text": "red", "image": PIXEL}]
    answer = sdk.embeddings.create(model=IMAGE_MODEL, input=[], extra_body={"input": given})
    assert_same([item.embedding for item in answer.data], plain.embed(given, model=IMAGE_MODEL))


@pytest.mark.call("`extra_body`: task, truncate, embedding_type")
def test_fields_beyond_openais(sdk: OpenAI, plain: Plain) -> None:
    answer = sdk.embeddings.create(model=PROMPTED, input=TEXTS, extra_body={"task": "retrieval.query"})
    assert_same([item.embedding for item in answer.data], plain.embed([f"query: {text}" for text in TEXTS]))
    cut = sdk.embeddings.create(model=MODEL, input=LONG, extra_body={"truncate": True})
    assert cut.usage.total_tokens == 256
    bits = sdk.embeddings.create(model=MODEL, input="a", extra_body={"embedding_type": "ubinary"})
    assert [bits.data[0].embedding] == plain.embed("a", embedding_type="ubinary")


@pytest.mark.call("`-query` and `-passage` appended to the model's name")
def test_purpose_in_the_models_name(sdk: OpenAI, plain: Plain) -> None:
    for suffix in ("query", "passage"):
        answer = sdk.embeddings.create(model=f"{PROMPTED}-{suffix}", input=TEXTS)
        assert_same([item.embedding for item in answer.data], plain.embed([f"{suffix}: {text}" for text in TEXTS]))


@pytest.mark.call("`AsyncOpenAI`, 40 calls at once")
def test_async_client(url: str, plain: Plain) -> None:
    async def embed() -> list[list[float]]:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="unused") as client:
            calls = [client.embeddings.create(model=MODEL, input=f"text {i}") for i in range(40)]
            return [answer.data[0].embedding for answer in await asyncio.gather(*calls)]

    assert_same(asyncio.run(embed()), plain.embed([f"text {i}" for i in range(40)]))


@pytest.mark.call("2,048 texts per call")
def test_as_many_texts_as_openai_takes(sdk: OpenAI, plain: Plain) -> None:
    texts = [f"text {i}" for i in range(2048)]
    answer = sdk.embeddings.create(model=MODEL, input=texts)
    assert len(answer.data) == 2048
    assert_same([answer.data[2000].embedding], plain.embed(texts[2000]))
    with pytest.raises(BadRequestError, match="it must have 1 to 2048"):
        sdk.embeddings.create(model=MODEL, input=[*texts, "one more"])


@pytest.mark.call("`models.list`, `models.retrieve`")
def test_models(sdk: OpenAI) -> None:
    assert [model.id for model in sdk.models.list()][:2] == [MODEL, "minilm-late-interaction"]
    assert sdk.models.retrieve("text-embedding-3-small").id == MODEL


@pytest.mark.call("errors: `BadRequestError`, `NotFoundError`")
def test_errors(sdk: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="has 402 tokens; the limit of model 'all-minilm-l6-v2' is 256") as bad:
        sdk.embeddings.create(model=MODEL, input=["a", LONG])
    assert (bad.value.param, bad.value.type) == ("input[1]", "invalid_request_error")
    with pytest.raises(NotFoundError, match="there is no model 'gpt-5'") as missing:
        sdk.embeddings.create(model="gpt-5", input="a")
    assert missing.value.code == "model_not_found"


@pytest.mark.call("errors: `AuthenticationError`, `RateLimitError`")
def test_keys_and_quotas(guarded_url: str) -> None:
    def send(key: str, text: str) -> str:
        with OpenAI(base_url=f"{guarded_url}/v1", api_key=key, max_retries=0) as client:
            return client.embeddings.create(model=MODEL, input=text).model

    with pytest.raises(AuthenticationError) as unknown:
        send("wrong", "a")
    assert unknown.value.code == "invalid_api_key"
    with ThreadPoolExecutor(4) as pool, pytest.raises(RateLimitError) as spent:  # noqa: PT012
        for model in pool.map(lambda i: send("compat-0", f"text {i}"), range(25)):
            assert model == MODEL
    assert spent.value.code == "rate_limit_exceeded"
    assert int(spent.value.response.headers["retry-after"]) > 0
