"""Sparse and token vectors that users get, from the text on, against the library's own calls."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from torch import Tensor

from export.manifest import ModelSpec
from export.repository import build
from loadtest.tools import tiny
from tests.serving import serve

TEXTS = ["a shell", "A conch is a sea snail, and its shell a trumpet.", *tiny.TEXTS[:3]]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("sources")
    return {
        "multi-vector": tiny.write_multi_vector(
            folder / "multi-vector", query_expansion={"strategy": "fixed", "length": 12}
        ),
        "text-embedding": tiny.write_m3(folder / "m3"),
    }


@pytest.fixture(scope="module")
def gateway(sources: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    """Serves a model of each task in fp32, where no error hides, by the name of the task."""
    folder = tmp_path_factory.mktemp("repository")
    for task, source in sources.items():
        build(ModelSpec(name=task, task=task, source=str(source), precision="fp32"), folder, progress=print)  # type: ignore[arg-type]
    with serve(folder) as running, httpx2.Client(base_url=running.url, timeout=60) as client:
        yield client


def embed(client: httpx2.Client, **body: Any) -> list[Any]:
    response = client.post("/v1/embeddings", json={"input": TEXTS} | body)
    assert response.status_code == 200, response.text
    return [item["embedding"] for item in response.json()["data"]]


def assert_same(found: Sequence[Any], expected: Sequence[Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.array(ours), theirs.numpy(), atol=1e-5)


@pytest.mark.parametrize("side", ["query", "document"])
def test_token_vectors_are_those_of_multi_vector_encoder(
    gateway: httpx2.Client, sources: Mapping[str, Path], side: str
) -> None:
    encoder = MultiVectorEncoder(str(sources["multi-vector"]), device="cpu")
    encode = encoder.encode_query if side == "query" else encoder.encode_document
    expected = encode(TEXTS)
    assert_same(embed(gateway, model="multi-vector", embedding_type="multi_vector", task=side), list(expected))


def test_all_kinds_of_one_model_come_together(gateway: httpx2.Client, sources: Mapping[str, Path]) -> None:
    """As BGEM3FlagModel computes them: FlagEmbedding's inference/embedder/encoder_only/m3.py and its modeling."""
    source = sources["text-embedding"]
    encoder = SentenceTransformer(str(source), device="cpu")
    hidden = encoder.encode(TEXTS, output_value="token_embeddings", convert_to_tensor=True)
    colbert, sparse = (torch.load(source / f"{name}_linear.pt", weights_only=True) for name in ("colbert", "sparse"))
    found = embed(gateway, model="text-embedding", embedding_type=["float", "sparse", "multi_vector"])
    dense = encoder.encode(TEXTS, normalize_embeddings=True, convert_to_tensor=True)
    assert_same([each["float"] for each in found], list(dense))
    for each, states, text in zip(found, hidden, TEXTS, strict=True):
        tokens = torch.nn.functional.normalize(states[1:] @ colbert["weight"].T + colbert["bias"], dim=-1)
        assert_same([each["multi_vector"]], [tokens])
        weights = torch.relu(states @ sparse["weight"].T + sparse["bias"])[:, 0].tolist()
        ids = encoder.tokenizer(text)["input_ids"]
        terms: dict[int, float] = {}
        for index, weight in zip(ids, weights, strict=True):
            if index not in encoder.tokenizer.all_special_ids and weight > 0:
                terms[index] = max(weight, terms.get(index, 0))
        assert each["sparse"]["indices"] == sorted(terms)
        assert each["sparse"]["values"] == pytest.approx([terms[i] for i in sorted(terms)], abs=1e-5)
