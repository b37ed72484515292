import asyncio

import litellm
import pytest

from tests.compat.plain import LONG, MODEL, PROMPTED, TEXTS, Plain, assert_same

pytestmark = pytest.mark.client("litellm", "`api_base`: see each call")

litellm.telemetry = False


def vectors(answer: litellm.EmbeddingResponse) -> list[list[float]]:
    return [item["embedding"] for item in answer.data]


@pytest.mark.call('`embedding("ollama/...")`, `aembedding`, dimensions, `api_base="URL"`')
def test_texts(url: str, plain: Plain) -> None:
    answer = litellm.embedding(f"ollama/{MODEL}", input=[*TEXTS, LONG], api_base=url)
    assert_same(vectors(answer), plain.embed([*TEXTS, LONG], truncate=True))
    assert answer.usage.prompt_tokens == 286
    answer = asyncio.run(litellm.aembedding(f"ollama/{PROMPTED}:latest", input=TEXTS, dimensions=64, api_base=url))
    assert_same(vectors(answer), plain.embed(TEXTS, model=PROMPTED, dimensions=64))


@pytest.mark.call("errors of `ollama/...` with our message")
def test_errors(url: str) -> None:
    with pytest.raises(litellm.exceptions.NotFoundError, match="there is no model 'llama3'"):
        litellm.embedding("ollama/llama3", input=["a"], api_base=url)
