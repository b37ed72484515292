"""The numbers that users get, against sentence-transformers and on evaluation data."""

import csv
import json
from pathlib import Path

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer

from export.verification.samples import TEXTS

STSB, XQUAD = (Path("../shared/data") / name for name in ("stsb-en-dev.csv", "xquad.en.json"))


def embed(client: httpx2.Client, texts: list[str]) -> NDArray[np.float32]:
    response = client.post("/v1/embeddings", json={"input": texts})
    assert response.status_code == 200, response.text
    return np.array([item["embedding"] for item in response.json()["data"]], np.float32)


def test_200_sentences_equal_sentence_transformers(client: httpx2.Client, minilm_folder: Path) -> None:
    texts = [" ".join(TEXTS[(i + k) % len(TEXTS)] for k in range(1 + i % 7)) for i in range(200)]
    expected = SentenceTransformer(str(minilm_folder), device="cpu").encode(texts, normalize_embeddings=True)
    assert (embed(client, texts) * expected).sum(1).min() >= 0.9999


@pytest.mark.skipif(not STSB.exists(), reason=f"{STSB} is not there; get stsb-multi-mt's English dev split to run this")
def test_spearman_on_stsb_is_the_references(client: httpx2.Client, minilm_folder: Path) -> None:
    """Every third pair: all of them, in minutes, are `make evaluate`."""
    with STSB.open(encoding="utf8") as file:
        first, second, scores = zip(*[*csv.reader(file)][::3], strict=True)
    labels = [float(score) for score in scores]
    reference = SentenceTransformer(str(minilm_folder), device="cpu")

    def spearman(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
        return float(spearmanr((one * other).sum(1), labels).statistic)

    expected = spearman(*(reference.encode(list(texts), normalize_embeddings=True) for texts in (first, second)))
    assert spearman(*(embed(client, list(texts)) for texts in (first, second))) == pytest.approx(expected, abs=0.001)


@pytest.mark.skipif(not XQUAD.exists(), reason=f"{XQUAD} is not there; get XQuAD's xquad.en.json to run this")
def test_rerank_finds_the_right_paragraph(client: httpx2.Client) -> None:
    """Every 40th question against 20 paragraphs: the whole, in minutes, is `make evaluate`."""
    articles = json.loads(XQUAD.read_text())["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    questions = [(qa["question"], i) for i, paragraph in enumerate(paragraphs) for qa in paragraph["qas"]][::40]
    first = 0
    for question, relevant in questions:
        start = max(0, min(relevant - 10, len(paragraphs) - 20))
        texts = [paragraph["context"] for paragraph in paragraphs[start : start + 20]]
        answer = client.post("/v1/rerank", json={"query": question, "documents": texts, "top_n": 1}).json()
        first += answer["results"][0]["index"] == relevant - start
    assert first / len(questions) > 0.9
