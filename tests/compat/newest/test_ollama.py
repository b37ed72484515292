import asyncio

import pytest
from ollama import AsyncClient, Client, ResponseError

from tests.compat.plain import LONG, MODEL, PROMPTED, RERANKER, TEXTS, Plain, assert_same

pytestmark = pytest.mark.client("ollama", '`host="URL"`')


@pytest.fixture
def client(url: str) -> Client:
    return Client(host=url)


@pytest.mark.call("`embed`: of one text and of many, truncate, dimensions, keep_alive, options")
def test_vectors(client: Client, plain: Plain) -> None:
    answer = client.embed(MODEL, [*TEXTS, LONG], keep_alive="5m", options={"num_ctx": 2048})
    assert_same(answer.embeddings, plain.embed([*TEXTS, LONG], truncate=True))
    assert answer.prompt_eval_count == 286
    assert answer.total_duration is not None
    assert answer.total_duration > 0
    assert_same(client.embed(f"{MODEL}:latest", TEXTS[0]).embeddings, plain.embed(TEXTS[:1]))
    small = client.embed(f"{PROMPTED}-query", TEXTS, dimensions=64)
    assert_same(small.embeddings, plain.embed(TEXTS, model=PROMPTED, task="query", dimensions=64))


@pytest.mark.call("`embeddings`")
def test_first_api(client: Client, plain: Plain) -> None:
    assert_same([client.embeddings(MODEL, TEXTS[0]).embedding], plain.embed(TEXTS[:1]))


@pytest.mark.call("`AsyncClient.embed`")
def test_async(url: str, plain: Plain) -> None:
    answer = asyncio.run(AsyncClient(host=url).embed(MODEL, TEXTS))
    assert_same(answer.embeddings, plain.embed(TEXTS))


@pytest.mark.call("`list`, `ps`, `show`, `pull`, also as a stream")
def test_models(client: Client) -> None:
    listed = {model.model: model for model in client.list().models}
    assert {f"{MODEL}:latest", f"{PROMPTED}:latest", "text-embedding-3-large:latest"} <= set(listed)
    assert f"{RERANKER}:latest" not in listed
    running = {model.model: model for model in client.ps().models}
    assert running[f"{MODEL}:latest"].context_length == 256
    shown = client.show(MODEL)
    assert shown.capabilities == ["embedding"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["text-embedding.embedding_length"] == 384
    assert client.pull(MODEL).status == "success"
    assert [progress.status for progress in client.pull(MODEL, stream=True)] == ["success"]


@pytest.mark.call("a key in `headers`; errors: `ResponseError` with our message")
def test_errors(client: Client, guarded_url: str, plain: Plain) -> None:
    with pytest.raises(ResponseError, match="there is no model 'nomic-embed-text'") as missing:
        client.embed("nomic-embed-text", TEXTS)
    assert missing.value.status_code == 404
    with pytest.raises(ResponseError, match="there is no model 'llama3'"):
        client.pull("llama3")
    with pytest.raises(ResponseError, match="has 402 tokens; the limit of model"):
        client.embed(MODEL, LONG, truncate=False)
    with pytest.raises(ResponseError, match="there is no /api/chat"):
        client.chat(MODEL, [{"role": "user", "content": "a"}])
    with pytest.raises(ResponseError, match="an API key is required"):
        Client(host=guarded_url).list()
    keyed = Client(host=guarded_url, headers={"Authorization": "Bearer compat-0"})
    assert_same(keyed.embed(MODEL, TEXTS).embeddings, plain.embed(TEXTS))
