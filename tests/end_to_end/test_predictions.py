"""A cross-encoder as the default reranker, asked by the routes that name no model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder
from torch import nn

from export.manifest import ModelSpec
from export.repository import build
from loadtest.tools import tiny
from tests.serving import serve

QUERY = "How do I reset my password?"
DOCUMENTS = ["Water boils.", "Choose a new password in the settings of your account.", "Der Zug hat Verspätung."]
PAIRS = [[QUERY, document] for document in DOCUMENTS]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_cross_encoder(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def client(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    served = tmp_path_factory.mktemp("served")
    spec = ModelSpec(name="tiny-cross", task="cross-encoder", source=str(source), default=True)
    build(spec, served, progress=print)
    with serve(served) as running, httpx2.Client(base_url=running.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def logits(source: Path) -> NDArray[np.float32]:
    reference = CrossEncoder(str(source), device="cpu")
    found: NDArray[np.float32] = reference.predict([(a, b) for a, b in PAIRS], activation_fn=nn.Identity())
    return found


def post(client: httpx2.Client, path: str, **body: Any) -> Any:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_predictions_are_those_of_sentence_transformers(client: httpx2.Client, logits: NDArray[np.float32]) -> None:
    answered = post(client, "/predict", inputs=PAIRS)
    assert all(prediction["label"] == "LABEL_0" for (prediction,) in answered)
    assert [prediction["score"] for (prediction,) in answered] == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-2)
    raw = post(client, "/predict", inputs=PAIRS, raw_scores=True)
    assert [prediction["score"] for (prediction,) in raw] == pytest.approx(logits, abs=2e-2)


def test_pairs_are_limited_as_rows_are(client: httpx2.Client) -> None:
    assert client.post("/predict", json={"inputs": PAIRS[:1] * 2049}).status_code == 400


def test_first_texts_may_differ(client: httpx2.Client) -> None:
    def scores(*pairs: list[str]) -> list[float]:
        return [prediction["score"] for (prediction,) in post(client, "/predict", inputs=pairs)]

    other = ["another and longer first text, of more tokens", "Water boils."]
    assert scores(*PAIRS, other) == pytest.approx([*scores(*PAIRS), *scores(other)], abs=1e-2)


def test_message_about_a_pair_names_it(client: httpx2.Client) -> None:
    error = client.post("/predict", json={"inputs": [*PAIRS, ["a", "b " * 5000]], "truncate": False}).json()
    assert error["error"].startswith("inputs[3] has")


def test_one_pair_is_answered_alone(client: httpx2.Client) -> None:
    (prediction,) = post(client, "/predict", inputs=PAIRS[0])
    assert [[prediction]] == post(client, "/predict", inputs=PAIRS[:1])


def test_rankings_without_activation_are_by_logits(client: httpx2.Client, logits: NDArray[np.float32]) -> None:
    def check(ranked: list[tuple[int, float]]) -> None:
        assert ranked == sorted(ranked, key=lambda each: -each[1])  # in bf16, close ones may change places
        assert [score for _, score in sorted(ranked)] == pytest.approx(logits.tolist(), abs=2e-2)

    ranks = post(client, "/rerank", query=QUERY, texts=DOCUMENTS, raw_scores=True)
    check([(rank["index"], rank["score"]) for rank in ranks])
    nim = post(client, "/v1/ranking", query={"text": QUERY}, passages=[{"text": text} for text in DOCUMENTS])
    check([(rank["index"], rank["logit"]) for rank in nim["rankings"]])
