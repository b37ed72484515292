import asyncio
from typing import Any

import numpy as np
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests.compat.plain import LONG, TEXTS, Plain, assert_same

pytestmark = pytest.mark.client("huggingface-hub", '`InferenceClient("URL/embed")`; the path depends on the task')


def client_of(url: str) -> Any:
    """Of any type, since the environment that types are checked in has an older version for its own ends."""
    return InferenceClient(url)


@pytest.mark.call("`feature_extraction`, of one text and of many")
def test_feature_extraction(url: str, plain: Plain) -> None:
    client = client_of(f"{url}/embed")
    assert_same(client.feature_extraction(TEXTS).tolist(), plain.embed(TEXTS))
    assert_same(client.feature_extraction(TEXTS[0]).tolist(), plain.embed(TEXTS[0]))


@pytest.mark.call("`feature_extraction(normalize=, truncate=, truncation_direction=)`")
def test_parameters(url: str, plain: Plain) -> None:
    client = client_of(f"{url}/embed")
    raw = client.feature_extraction(TEXTS, normalize=False).tolist()
    assert_same(raw, plain.embed(TEXTS, normalized=False))
    text = "sea " * 254 + "shell " * 254
    left = client.feature_extraction(text, truncate=True, truncation_direction="left")
    assert_same(left.tolist(), plain.embed("shell " * 254))


@pytest.mark.call('`sentence_similarity`, at `"URL/similarity"`')
def test_similarity(url: str, plain: Plain) -> None:
    found = client_of(f"{url}/similarity").sentence_similarity(TEXTS[0], other_sentences=TEXTS)
    vectors = np.array(plain.embed(TEXTS))
    assert np.abs(np.array(found) - vectors @ vectors[0]).max() < 1e-3


@pytest.mark.call('`feature_extraction`, `sentence_similarity` of `InferenceClient("URL")`')
def test_bare_url(url: str, plain: Plain) -> None:
    client = client_of(url)
    assert_same(client.feature_extraction(TEXTS).tolist(), plain.embed(TEXTS))
    found = client.sentence_similarity(TEXTS[0], other_sentences=TEXTS)
    vectors = np.array(plain.embed(TEXTS))
    assert np.abs(np.array(found) - vectors @ vectors[0]).max() < 1e-3


@pytest.mark.call("`AsyncInferenceClient.feature_extraction`")
def test_async(url: str, plain: Plain) -> None:
    async def embed() -> list[list[float]]:
        async with AsyncInferenceClient(f"{url}/embed") as client:
            vectors: list[list[float]] = (await client.feature_extraction(TEXTS)).tolist()
            return vectors

    assert_same(asyncio.run(embed()), plain.embed(TEXTS))


@pytest.mark.call('`InferenceClient("URL", provider="hf-inference")`: `get_endpoint_info`, `health_check`')
def test_about_the_server(url: str) -> None:
    client = InferenceClient(url, provider="hf-inference")
    assert client.get_endpoint_info()["model_id"] == "all-minilm-l6-v2"
    assert client.health_check()


@pytest.mark.call('`text_classification`, at `"URL/predict"`: the best label, as from TEI')
def test_text_classification(url: str, plain: Plain) -> None:
    found = client_of(f"{url}/predict").text_classification(TEXTS[0])
    expected = plain.classify(TEXTS[:1])[0]
    assert found.label == max(expected, key=lambda label: expected[label])
    assert found.score == pytest.approx(max(expected.values()), abs=1e-5)


@pytest.mark.call("errors: `HfHubHTTPError` with our message")
def test_errors(url: str) -> None:
    with pytest.raises(HfHubHTTPError, match="402 tokens; the limit of model 'all-minilm-l6-v2' is 256"):
        client_of(f"{url}/embed").feature_extraction(LONG, truncate=False)
