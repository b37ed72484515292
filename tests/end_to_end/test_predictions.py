"""A cross-encoder as the default reranker, asked by the routes that name no model, and classifiers beside it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

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
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Classifiers with one label, and with several that do not exclude each other."""
    folder = tmp_path_factory.mktemp("classifiers")
    many = tiny.write_cross_encoder(folder / "many", "XLM-RoBERTa", labels=40)
    tiny.revise(many / "config.json", problem_type="multi_label_classification")
    return {"one-label": tiny.write_cross_encoder(folder / "one"), "many-labels": many}


@pytest.fixture(scope="module")
def client(
    source: Path, classifiers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx2.Client]:
    served = tmp_path_factory.mktemp("served")
    for spec in (
        ModelSpec(name="tiny-cross", task="cross-encoder", source=str(source), default=True),
        *(ModelSpec(name=name, task="classification", source=str(folder)) for name, folder in classifiers.items()),
    ):
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


INPUTS: list[Any] = [*DOCUMENTS, PAIRS[0], ["Water boils. " * 40, "Choose a new password. " * 40]]
NAMES = ["one-label", "many-labels"]


def probabilities(folder: Path) -> NDArray[np.float64]:
    """Scores of INPUTS, [n, labels], by transformers' own pipeline."""
    call: Any = pipeline("text-classification", model=str(folder), device="cpu", top_k=None)
    found = []
    for given in INPUTS:
        text = given if isinstance(given, str) else {"text": given[0], "text_pair": given[1]}
        (scores,) = call([text], truncation=True)
        labels = {one["label"]: one["score"] for one in scores}
        found.append([labels[f"LABEL_{i}"] for i in range(len(labels))])
    return np.array(found)


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_those_of_transformers_pipeline(
    name: str, client: httpx2.Client, classifiers: dict[str, Path]
) -> None:
    expected = probabilities(classifiers[name])
    answer = post(client, "/classify", model=name, input=INPUTS, truncate_prompt_tokens=-1)
    assert (answer["object"], answer["model"]) == ("list", name)
    assert np.array([item["probs"] for item in answer["data"]]) == pytest.approx(expected, abs=1e-2)
    for i, item in enumerate(answer["data"]):
        assert item["label"] == f"LABEL_{np.argmax(item['probs'])}"
        assert (item["index"], item["num_classes"]) == (i, expected.shape[1])
    pooled = post(client, "/pooling", model=name, input=INPUTS, truncate=True)  # task classify by default
    assert np.array([item["data"] for item in pooled["data"]]) == pytest.approx(expected, abs=1e-2)
    assert pooled["usage"] == answer["usage"]


@pytest.mark.parametrize("name", NAMES)
def test_field_of_infinity_asks_for_its_format(name: str, client: httpx2.Client, classifiers: dict[str, Path]) -> None:
    expected = probabilities(classifiers[name])
    answer = post(client, "/classify", model=name, input=INPUTS, raw_scores=False)
    assert answer["object"] == "classify"
    for scored, row in zip(answer["data"], expected, strict=True):
        assert scored == sorted(scored, key=lambda one: -one["score"])
        by_label = {one["label"]: one["score"] for one in scored}
        assert [by_label[f"LABEL_{i}"] for i in range(len(row))] == pytest.approx(row, abs=1e-2)


def test_logits_are_those_before_the_activation(client: httpx2.Client) -> None:
    def probs(**more: Any) -> NDArray[np.float64]:
        answer = post(client, "/classify", model="many-labels", input=DOCUMENTS, **more)
        return np.array([item["probs"] for item in answer["data"]])

    logits = probs(use_activation=False)
    assert logits.min() < 0
    assert probs() == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-6)
    assert probs(softmax=False) == pytest.approx(logits)
    raw = post(client, "/classify", model="many-labels", input=DOCUMENTS, raw_scores=True)["data"]
    assert [scored[0]["score"] for scored in raw] == pytest.approx(logits.max(1))


def test_long_input_is_an_error_unless_it_is_truncated(client: httpx2.Client) -> None:
    error = client.post("/classify", json={"model": "one-label", "input": INPUTS}).json()["error"]
    assert error["message"].startswith("input[4] has ")
    assert error["param"] == "input[4]"


def test_cross_encoder_classifies_and_scores_pairs(client: httpx2.Client, logits: NDArray[np.float32]) -> None:
    expected = (1 / (1 + np.exp(-logits))).tolist()
    found = post(client, "/classify", input=PAIRS)  # the default classifier, since there is no other
    assert [item["probs"] for item in found["data"]] == [[pytest.approx(score, abs=1e-2)] for score in expected]
    scored = post(client, "/score", text_1=QUERY, text_2=DOCUMENTS)
    assert [item["score"] for item in scored["data"]] == pytest.approx(expected, abs=1e-2)
    scored = post(client, "/score", queries=[QUERY] * 3, documents=DOCUMENTS, use_activation=False)
    assert [item["score"] for item in scored["data"]] == pytest.approx(logits.tolist(), abs=2e-2)
    error = client.post("/classify", json={"input": "a"}).json()["error"]
    assert error["message"] == "input must be a pair of texts, since model 'tiny-cross' is a cross-encoder"


def test_models_are_listed_with_their_labels(client: httpx2.Client) -> None:
    models = {one["id"]: one for one in client.get("/v1/models").json()["data"]}
    assert models["many-labels"]["labels"] == [f"LABEL_{i}" for i in range(40)]
    assert (models["many-labels"]["role"], models["many-labels"]["model_type"]) == ("classifier", "classification")
    assert "labels" not in models["tiny-cross"]


def test_special_tokens_can_be_left_out(client: httpx2.Client, classifiers: dict[str, Path]) -> None:
    folder = classifiers["many-labels"]
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    given = AutoTokenizer.from_pretrained(folder)(DOCUMENTS[1], add_special_tokens=False, return_tensors="pt")
    with torch.inference_mode():
        (expected,) = model(**given).logits.numpy()
    body = {"model": "many-labels", "input": DOCUMENTS[1], "add_special_tokens": False, "use_activation": False}
    answer = post(client, "/classify", **body)
    assert answer["data"][0]["probs"] == pytest.approx(expected, abs=1e-2)
    assert answer["usage"]["prompt_tokens"] == given["input_ids"].numel()
