import asyncio

import openai
import pytest
from openai import AsyncAzureOpenAI, AzureOpenAI, OpenAI

from tests.compat.plain import MODEL, TEXTS, Plain, assert_same

pytestmark = pytest.mark.client("openai", '`AzureOpenAI(azure_endpoint="URL")`')
VERSION = "2024-10-21"


def azure(url: str, key: str = "unused", deployment: str | None = None) -> AzureOpenAI:
    return AzureOpenAI(azure_endpoint=url, azure_deployment=deployment, api_key=key, api_version=VERSION, max_retries=0)


@pytest.mark.call("`embeddings.create`; the deployment is the model")
def test_embeddings(url: str, plain: Plain) -> None:
    answer = azure(url).embeddings.create(model=MODEL, input=TEXTS)
    assert_same([one.embedding for one in answer.data], plain.embed(TEXTS))
    answer = azure(url, deployment=MODEL).embeddings.create(model="text-embedding-ada-002", input=TEXTS)
    assert answer.model == MODEL


@pytest.mark.call("`AsyncAzureOpenAI`")
def test_async(url: str, plain: Plain) -> None:
    async def embed() -> list[list[float]]:
        async with AsyncAzureOpenAI(azure_endpoint=url, api_key="unused", api_version=VERSION) as client:
            answer = await client.embeddings.create(model=MODEL, input=TEXTS)
        return [one.embedding for one in answer.data]

    assert_same(asyncio.run(embed()), plain.embed(TEXTS))


@pytest.mark.call('`OpenAI(base_url="URL/openai/v1")`: `embeddings.create`, `models.list`')
def test_version_1(url: str, plain: Plain) -> None:
    client = OpenAI(base_url=f"{url}/openai/v1/", api_key="unused")
    answer = client.embeddings.create(model=MODEL, input=TEXTS)
    assert_same([one.embedding for one in answer.data], plain.embed(TEXTS))
    assert MODEL in [one.id for one in client.models.list()]


@pytest.mark.call("errors: `AuthenticationError`, `NotFoundError`; the key in the header `api-key`")
def test_errors(url: str, guarded_url: str) -> None:
    assert azure(guarded_url, "compat-8").embeddings.create(model=MODEL, input="a").data
    with pytest.raises(openai.AuthenticationError, match="invalid API key"):
        azure(guarded_url, "wrong").embeddings.create(model=MODEL, input="a")
    with pytest.raises(openai.NotFoundError, match="there is no model 'x'"):
        azure(url).embeddings.create(model="x", input="a")
