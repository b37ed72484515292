import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer
from transformers import pipeline

from export.errors import SourceError
from export.manifest import ModelSpec
from export.packing.rows import Rows
from export.runtime.contract import CLASSIFIER, FIRST_LENGTH, SCORE, TEXT
from export.tasks import classification
from export.tower import Tower
from gateway.scores import ACTIVATIONS
from gateway.text.tokenizer import TextTokenizer
from loadtest.tools import tiny

Given = str | tuple[str, str]
TEXTS: list[Given] = [
    "A conch is a sea snail.",
    "x",
    ("sea shells", "A conch is a sea snail."),
    ("Brass is an alloy of copper and zinc, and bronze one of copper and tin.", "a trumpet"),
]
LONG: list[Given] = [
    "A conch is a sea snail. " * 60,
    ("sea shells", "A conch is a sea snail. " * 60),
    ("A conch is a sea snail. " * 60, "sea shells"),
    ("A conch is a sea snail. " * 60, "Brass is an alloy. " * 60),
]
NAMES = {0: "contradicts, or not", 1: "entails", 2: "neutral"}


def load(source: Path) -> Tower:
    (tower,) = classification.load(ModelSpec(name="tiny", task="classification", source=str(source)), source)
    return tower


def served(tower: Tower, texts: list[Given]) -> torch.Tensor:
    """Scores by the tower's head, with the gateway's own code for all around it; the tower's reference must agree."""
    assert tower.vocabulary is not None
    tokenizer = TextTokenizer(Tokenizer.from_str(tower.vocabulary.tokenizer.to_str()))
    limit = tower.vocabulary.max_tokens
    made = []
    for text in texts:
        if isinstance(text, str):
            (ids,) = tokenizer.encode([text])
            ids = tokenizer.truncate(ids, limit)
            made.append((ids, len(ids)))
        else:
            made += tokenizer.encode_pairs([text], limit)
    length = torch.tensor([len(ids) for ids, _ in made])
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids, _ in made], batch_first=True)
    first = torch.tensor([first for _, first in made]) if FIRST_LENGTH in tower.fields else None
    with torch.inference_mode():
        logits = tower.head(Rows(padded, length, length, first))[SCORE]
        rows = [
            tuple(part.numpy() for part in (ids[:n], *(() if first is None else (first[i],))))
            for i, (ids, n) in enumerate(zip(padded, length, strict=True))
        ]
        torch.testing.assert_close(
            logits, torch.stack([tower.reference(row)[SCORE] for row in rows]), atol=1e-5, rtol=1e-5
        )
    return torch.from_numpy(ACTIVATIONS[tower.parameters["activation"]](logits.numpy())).float()


def predicted(source: Path, texts: list[Given], labels: list[str]) -> torch.Tensor:
    """Scores of all labels by transformers' own pipeline."""
    call: Any = pipeline("text-classification", model=str(source), device="cpu", top_k=None)
    found = []
    for text in texts:
        given = text if isinstance(text, str) else {"text": text[0], "text_pair": text[1]}
        (scores,) = call([given], truncation=True, max_length=100)
        by_label = {one["label"]: one["score"] for one in scores}
        found.append([by_label[label] for label in labels])
    return torch.tensor(found)


@pytest.mark.parametrize(("name", "labels"), [("BERT", 1), ("RoBERTa", 3), ("DeBERTa-v2", 40), ("Qwen3", 3)])
def test_scores_are_those_of_transformers_pipeline(name: str, labels: int, tmp_path: Path) -> None:
    source = tiny.write_cross_encoder(tmp_path, name, labels=labels)
    tower = load(source)
    told = [f"LABEL_{i}" for i in range(labels)]
    assert (tower.role, tower.width, tower.parameters["labels"]) == (CLASSIFIER, labels, told)
    torch.testing.assert_close(
        served(tower, [*TEXTS, *LONG]), predicted(source, [*TEXTS, *LONG], told), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("labels", "settings", "activation"),
    [
        (1, {}, "sigmoid"),
        (3, {}, "softmax"),
        (3, {"problem_type": "multi_label_classification"}, "sigmoid"),
        (3, {"problem_type": "regression"}, "none"),
    ],
)
def test_activation_is_that_of_the_pipeline(
    labels: int, settings: dict[str, str], activation: str, tmp_path: Path
) -> None:
    source = tiny.write_cross_encoder(tmp_path, labels=labels)
    tiny.revise(source / "config.json", **settings)
    tower = load(source)
    assert tower.parameters["activation"] == activation
    told = list(tower.parameters["labels"])
    torch.testing.assert_close(served(tower, TEXTS), predicted(source, TEXTS, told), atol=1e-5, rtol=1e-5)


def test_labels_keep_their_names_and_order(tmp_path: Path) -> None:
    source = tiny.write_cross_encoder(tmp_path, labels=3, id2label=NAMES)
    assert load(source).parameters["labels"] == list(NAMES.values())


@pytest.mark.parametrize(("chosen", "activation"), [(None, "softmax"), (torch.nn.Sigmoid(), "sigmoid")])
def test_saved_cross_encoder_with_several_labels(
    chosen: torch.nn.Module | None, activation: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {} if chosen is None else {"activation_fn": chosen}
    source = tiny.write_saved_cross_encoder(tmp_path, labels=3, **settings)
    tower = load(source)
    assert tower.parameters["activation"] == activation
    pairs = [text for text in TEXTS if isinstance(text, tuple)]
    expected = CrossEncoder(str(source), device="cpu").predict(pairs, apply_softmax=chosen is None)
    torch.testing.assert_close(served(tower, TEXTS[-2:]), torch.from_numpy(expected), atol=1e-5, rtol=1e-5)


def test_samples_are_texts_and_pairs_of_every_length(tmp_path: Path) -> None:
    tower = load(tiny.write_cross_encoder(tmp_path, labels=3))
    assert tower.fields == (TEXT, FIRST_LENGTH)
    rows = tower.samples()
    assert [len(row[0]) for row in rows] == [3, 4, 6, 9, 14, 22, 35, 56, 90, 100]
    assert [int(row[1]) < len(row[0]) for row in rows] == [False, False, False, *[True, False] * 3, True]


@pytest.mark.parametrize(("name", "pooling"), [("BERT", "cls"), ("Qwen3", None)])
def test_pooling_of_packed_rows_is_that_of_rows_with_their_last_token(
    name: str, pooling: str | None, tmp_path: Path
) -> None:
    tower = load(tiny.write_cross_encoder(tmp_path, name, labels=3))
    # Qwen3's texts end with the token that is also its padding, and its classifier looks at the token before it.
    assert tower.head.classifier.pooling == pooling  # type: ignore[union-attr]


def test_model_without_a_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"^\[tiny\] source: BertModel is not a sequence classifier$"):
        load(tiny.write_plain(tmp_path))


def test_modules_behind_a_classifier_are_refused(tmp_path: Path) -> None:
    source = tiny.write_saved_cross_encoder(tmp_path)
    listed = json.loads((source / "modules.json").read_text())
    listed += [{"idx": 1, "name": "1", "path": "1", "type": "evil.Evil"}]
    (source / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(SourceError, match=r"^\[tiny\] source: a classifier of .*\.Transformer, evil\.Evil is not supp"):
        load(source)
