"""OpenAI's own client, unchanged but for the base URL."""

from collections.abc import Iterator

import numpy as np
import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from tests.serving import Server


@pytest.fixture
def sdk(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="unused") as client:
        yield client


def test_embeddings_with_openais_default_model(sdk: OpenAI) -> None:
    answer = sdk.embeddings.create(model="text-embedding-3-small", input=["a conch", "a sea snail"])
    vectors = np.array([item.embedding for item in answer.data])
    assert vectors.shape == (2, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-6)
    assert answer.usage.total_tokens == 10


def test_base64_that_the_sdk_asks_for_equals_floats(sdk: OpenAI) -> None:
    packed = sdk.embeddings.create(model="text-embedding-3-small", input="a conch")
    plain = sdk.embeddings.create(model="text-embedding-3-small", input="a conch", encoding_format="float")
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-7)


def test_fields_beyond_openais_go_through_extra_body(sdk: OpenAI) -> None:
    answer = sdk.embeddings.create(model="all-minilm-l6-v2", input="a", extra_body={"embedding_type": "ubinary"})
    assert len(answer.data[0].embedding) == 48


def test_models(sdk: OpenAI) -> None:
    names = ["all-minilm-l6-v2", "minilm-late-interaction", "minilm-pictogram"]
    assert [model.id for model in sdk.models.list()] == names
    assert sdk.models.retrieve("text-embedding-3-small").id == "all-minilm-l6-v2"


def test_errors_are_the_sdks_own_classes(sdk: OpenAI) -> None:
    with pytest.raises(BadRequestError) as bad:
        sdk.embeddings.create(model="text-embedding-3-small", input="")
    assert (bad.value.param, bad.value.type) == ("input", "invalid_request_error")
    with pytest.raises(NotFoundError) as missing:
        sdk.embeddings.create(model="gpt-5", input="a")
    assert missing.value.code == "model_not_found"
