import asyncio

import pytest
from cohere import AsyncClientV2, Client, ClientV2
from cohere.errors import BadRequestError, NotFoundError, TooManyRequestsError, UnauthorizedError

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

pytestmark = pytest.mark.client("cohere", '`base_url="URL"`')


@pytest.fixture
def v2(url: str) -> ClientV2:
    return ClientV2(api_key="unused", base_url=url)


@pytest.fixture
def v1(url: str) -> Client:
    return Client(api_key="unused", base_url=url)


@pytest.mark.call("`ClientV2.embed(texts=...)`")
def test_texts(v2: ClientV2, plain: Plain) -> None:
    answer = v2.embed(model=MODEL, texts=TEXTS, input_type="search_document", embedding_types=["float"])
    assert_same(answer.embeddings.float_, plain.embed(TEXTS))
    assert answer.texts == TEXTS
    assert answer.meta.billed_units.input_tokens == 30


@pytest.mark.call("`ClientV2.embed(embedding_types=[int8, ubinary, ...])`")
def test_types(v2: ClientV2, plain: Plain) -> None:
    kinds = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    found = v2.embed(model=MODEL, texts=TEXTS, input_type="search_document", embedding_types=kinds).embeddings
    assert_same(found.float_, plain.embed(TEXTS))
    for kind in kinds[1:]:
        assert getattr(found, kind) == plain.embed(TEXTS, embedding_type=kind)


@pytest.mark.call("`ClientV2.embed(images=...)`")
def test_images(v2: ClientV2, plain: Plain) -> None:
    answer = v2.embed(model=IMAGE_MODEL, images=[PIXEL], input_type="image", embedding_types=["float"])
    assert_same(answer.embeddings.float_, plain.embed([{"image": PIXEL}], model=IMAGE_MODEL))
    assert answer.meta.billed_units.image_tokens > 0


@pytest.mark.call("`ClientV2.embed(inputs=...)`, texts and images in one")
def test_inputs(v2: ClientV2, plain: Plain) -> None:
    parts = [{"type": "text", "text": "red"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    inputs = [{"content": parts}, {"content": parts[:1]}, {"content": parts[1:]}]
    answer = v2.embed(model=IMAGE_MODEL, inputs=inputs, input_type="search_document", embedding_types=["float"])
    given = [{"text": "red", "image": PIXEL}, "red", {"image": PIXEL}]
    assert_same(answer.embeddings.float_, plain.embed(given, model=IMAGE_MODEL))


@pytest.mark.call("`ClientV2.embed(output_dimension=64)`")
def test_dimensions(v2: ClientV2, plain: Plain) -> None:
    answer = v2.embed(model=PROMPTED, texts=TEXTS, input_type="search_document", output_dimension=64)
    expected = plain.embed(TEXTS, model=PROMPTED, dimensions=64, input_type="search_document")
    assert_same(answer.embeddings.float_, expected)


@pytest.mark.call("`input_type` chooses the prompt")
def test_purpose(v2: ClientV2, plain: Plain) -> None:
    for purpose, prompt in (("search_query", "query: "), ("search_document", "passage: "), ("clustering", "")):
        answer = v2.embed(model=PROMPTED, texts=TEXTS, input_type=purpose)
        assert_same(answer.embeddings.float_, plain.embed([prompt + text for text in TEXTS]))


@pytest.mark.call('`truncate="START"`, `"END"`, `"NONE"`')
def test_truncation(v2: ClientV2, plain: Plain) -> None:
    text = "sea " * 254 + "shell " * 254
    for end, kept in (("START", "shell"), ("END", "sea")):
        answer = v2.embed(model=MODEL, texts=[text], input_type="search_document", truncate=end)
        assert_same(answer.embeddings.float_, plain.embed(f"{kept} " * 254))
    with pytest.raises(BadRequestError) as refused:
        v2.embed(model=MODEL, texts=["a", LONG], input_type="search_document", truncate="NONE")
    assert refused.value.body["message"].startswith("texts[1] has 402 tokens; the limit of model")


@pytest.mark.call("`ClientV2.rerank`")
def test_ranking(v2: ClientV2, plain: Plain) -> None:
    answer = v2.rerank(model=RERANKER, query=QUERY, documents=TEXTS, top_n=2)
    assert_ranked([(result.index, result.relevance_score) for result in answer.results], plain.rank()[:2])
    assert answer.meta.billed_units.search_units == 1
    assert answer.id


@pytest.mark.call("`AsyncClientV2.embed`, `.rerank`")
def test_async_client(url: str, plain: Plain) -> None:
    async def call() -> None:
        async with AsyncClientV2(api_key="unused", base_url=url) as client:
            answer = await client.embed(model=MODEL, texts=TEXTS, input_type="search_query")
            assert_same(answer.embeddings.float_, plain.embed(TEXTS))
            ranking = await client.rerank(model=RERANKER, query=QUERY, documents=TEXTS)
            assert_ranked([(result.index, result.relevance_score) for result in ranking.results], plain.rank())

    asyncio.run(call())


@pytest.mark.call("`Client.embed` (v1): floats, types, 250 texts")
def test_v1_embed(v1: Client, plain: Plain) -> None:
    texts = [f"text {i}" for i in range(250)]
    answer = v1.embed(model=MODEL, texts=texts, input_type="search_document")
    assert answer.response_type == "embeddings_floats"
    assert_same(answer.embeddings, plain.embed(texts))
    assert answer.texts == texts
    assert answer.meta.billed_units.input_tokens == 1000
    typed = v1.embed(model=MODEL, texts=TEXTS, input_type="search_document", embedding_types=["float", "int8"])
    assert_same(typed.embeddings.float_, plain.embed(TEXTS))
    assert typed.embeddings.int8 == plain.embed(TEXTS, embedding_type="int8")


@pytest.mark.call("`Client.embed` (v1): images, `input_type`")
def test_v1_images_and_purposes(v1: Client, plain: Plain) -> None:
    answer = v1.embed(model=IMAGE_MODEL, images=[PIXEL], input_type="image", embedding_types=["float"])
    assert_same(answer.embeddings.float_, plain.embed([{"image": PIXEL}], model=IMAGE_MODEL))
    asked = v1.embed(model=PROMPTED, texts=TEXTS, input_type="search_query")
    assert_same(asked.embeddings, plain.embed([f"query: {text}" for text in TEXTS]))


@pytest.mark.call("`Client.rerank` (v1)")
def test_v1_ranking(v1: Client, plain: Plain) -> None:
    answer = v1.rerank(model=RERANKER, query=QUERY, documents=TEXTS, top_n=2, return_documents=True)
    assert_ranked([(result.index, result.relevance_score) for result in answer.results], plain.rank()[:2])
    assert answer.results[0].document.text == TEXTS[answer.results[0].index]
    documents = [{"text": text} for text in TEXTS]
    short = v1.rerank(model=RERANKER, query=QUERY, documents=documents, return_documents=False)
    assert_ranked([(result.index, result.relevance_score) for result in short.results], plain.rank())
    assert all(result.document is None for result in short.results)


@pytest.mark.call("`Client.tokenize(offline=False)`, `detokenize`")
def test_tokens(v1: Client, plain: Plain) -> None:
    answer = v1.tokenize(text=TEXTS[0], model=MODEL, offline=False)
    status, spans = plain.post("/tokenize", {"inputs": TEXTS[0], "add_special_tokens": False})
    assert status == 200
    assert answer.tokens == [span["id"] for span in spans[0]]
    assert answer.token_strings == [span["text"] for span in spans[0]]
    text = v1.detokenize(tokens=answer.tokens, model=MODEL, offline=False).text
    assert text == TEXTS[0].lower()


@pytest.mark.call("errors: `BadRequestError`, `NotFoundError`")
def test_errors(v2: ClientV2, v1: Client) -> None:
    with pytest.raises(NotFoundError) as missing:
        v2.embed(model="embed-v9", texts=["a"], input_type="search_query")
    assert missing.value.body["message"].startswith("there is no model 'embed-v9'")
    with pytest.raises(NotFoundError):
        v2.rerank(model="rerank-v9", query="a", documents=["b"])
    with pytest.raises(NotFoundError) as missing:
        v1.embed(model="embed-v9", texts=["a"], input_type="search_query")
    assert missing.value.body["message"].startswith("there is no model 'embed-v9'")
    with pytest.raises(BadRequestError) as wrong:
        v2.embed(model=PROMPTED, texts=["a"], input_type="cooking")
    assert wrong.value.body["message"].startswith("unknown input_type 'cooking'")


@pytest.mark.call("errors: `UnauthorizedError`, `TooManyRequestsError`")
def test_keys_and_quotas(guarded_url: str) -> None:
    once = {"max_retries": 0}
    with pytest.raises(UnauthorizedError) as unknown:
        ClientV2(api_key="wrong", base_url=guarded_url).rerank(model=RERANKER, query="a", documents=["b"])
    assert unknown.value.body["message"].startswith("invalid API key")
    client = ClientV2(api_key="compat-1", base_url=guarded_url)

    def send() -> None:
        for _ in range(25):
            client.rerank(model=RERANKER, query="a", documents=["b"], request_options=once)

    with pytest.raises(TooManyRequestsError) as spent:
        send()
    assert "per minute" in spent.value.body["message"]
