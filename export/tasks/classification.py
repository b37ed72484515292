"""Classifiers of texts, or of pairs of texts: the logits of a sequence classifier, with the names of its labels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, TextClassificationPipeline

from export.errors import SourceError
from export.loading.models import Model, architecture, load_model, loading, read_settings
from export.manifest import ModelSpec
from export.packing.encoder import RowEncoder
from export.packing.heads import CrossEncoder
from export.runtime.contract import CLASSIFIER, FIRST_LENGTH, SCORE, TEXT, Output, Row
from export.tasks.prompts import describe_prompts
from export.tasks.sequence_classifier import SequenceClassifier, TextRows, listed_modules, saved, takes_segments
from export.tasks.vocabulary import vocabulary
from export.tower import Tower
from export.verification import samples

SHORTEST_PAIR = 8
"""The fewest tokens of a sample that is a pair."""


def load(spec: ModelSpec, folder: Path) -> list[Tower]:
    """Load a sequence classifier that transformers or sentence-transformers' CrossEncoder has saved.

    Raises:
        SourceError: it cannot be loaded, or is none.
    """
    settings = read_settings(spec, folder)
    module = transformer(spec, folder)
    model, tokenizer = module.model, module.tokenizer
    load_model(spec, type(model), Path(model.config.name_or_path))  # tells of missing weights
    model.eval().requires_grad_(requires_grad=False)
    limit = module.processing_kwargs.get("text", {}).get("max_length", module.max_seq_length)
    words = vocabulary(spec, tokenizer, model.base_model, limit)
    types = tokenizer("a b", "c d", return_tensors="pt").get("token_type_ids")
    rows = TextRows(words, takes_segments(spec, model.base_model, None if types is None else types[0]))
    encoder = RowEncoder(model.base_model, spec.backend)
    labels = [str(model.config.id2label[i]) for i in range(model.config.num_labels)]
    tower = Tower(
        name=spec.name,
        role=CLASSIFIER,
        fields=(TEXT, FIRST_LENGTH) if rows.segments else (TEXT,),
        outputs=(Output(SCORE, (len(labels),)),),
        head=CrossEncoder(encoder, SequenceClassifier(model, int(rows.text("a", words.max_tokens)[0][-1]))),
        reference=lambda row: {SCORE: _logits(model, row)},
        samples=lambda: [_sample(rows, i, length) for i, length in enumerate(samples.lengths(words))],
        vocabulary=words,
        packed=encoder.packed,
        parameters={
            "activation": activation(model.config, settings),
            "labels": labels,
            **describe_prompts(settings.get("prompts") or {}, settings.get("default_prompt_name")),
        },
    )
    _prove_texts(spec, pipeline(model, tokenizer), rows, tower)
    return [tower]


def transformer(spec: ModelSpec, folder: Path) -> Model:
    """The only module of what sentence-transformers' CrossEncoder loads, which also reads the limit of its texts.

    Raises:
        SourceError: the folder holds no sequence classifier, or more.
    """
    with loading(spec, folder=folder):
        kind = architecture(AutoConfig.from_pretrained(folder, trust_remote_code=spec.allow_remote_code))
    if not kind.endswith("ForSequenceClassification"):
        raise SourceError(f"[{spec.name}] source: {kind or 'its model'} is not a sequence classifier")
    if (folder / "modules.json").is_file():
        listed_modules(spec, folder, "classifier", ("Transformer",))
    (module,) = saved(spec, folder)
    return module


def pipeline(model: Model, tokenizer: Model) -> Model:
    """Transformers' own call, whose answers the served ones must equal."""
    return TextClassificationPipeline(model=model, tokenizer=tokenizer)  # type: ignore[no-untyped-call]


def activation(config: Model, settings: Mapping[str, Any]) -> str:
    """How logits become scores: as in transformers' TextClassificationPipeline.

    sentence-transformers' settings count where they say sigmoid: its Identity means that nobody has chosen.
    """
    if config.problem_type == "regression":
        return "none"
    is_sigmoid = str(settings.get("activation_fn")).endswith(".Sigmoid")
    if is_sigmoid or config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return "sigmoid"
    return "softmax"


def _logits(model: Model, row: Row) -> Tensor:
    """One row's logits, by the model's own code."""
    ids = torch.from_numpy(row[0])[None]
    features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if len(row) > 1:
        features["token_type_ids"] = (torch.arange(ids.shape[1])[None] >= int(row[1])).long()
    logits: Tensor = model(**features).logits[0]
    return logits


def _sample(rows: TextRows, start: int, length: int) -> Row:
    """A row of real text: a text or a pair, in turn."""
    if start % 2 == 0 or length < SHORTEST_PAIR:
        return rows.text(samples.text(start, 8 * length), length)
    return rows.pair(samples.text(start, length // 4), samples.text(start + 3, 8 * length), length)


def _prove_texts(spec: ModelSpec, pipeline: Model, rows: TextRows, tower: Tower) -> None:
    """Compare rows and logits with those of transformers' pipeline for the same texts.

    Raises:
        SourceError: they differ, as for settings of a folder that are not read.
    """
    limit = rows.words.max_tokens
    first, short, long = samples.text(0, 2), samples.text(3, 20), samples.text(3, 8 * limit)
    cut = {"truncation": True, "max_length": limit}
    for text, other in ((short, None), (long, None), (first, short), (first, long)):
        given = {"text": text} if other is None else {"text": text, "text_pair": other}
        row = rows.text(text, limit) if other is None else rows.pair(text, other, limit)
        features = pipeline.preprocess(given, **cut)
        if not np.array_equal(features["input_ids"][0].numpy(), row[0]):
            raise SourceError(f"[{spec.name}] source: transformers tokenizes texts differently than its tokenizer.json")
        with torch.inference_mode():
            found = tower.reference(row)[SCORE]
        if not torch.allclose(found, pipeline.forward(features)["logits"][0], atol=1e-4, rtol=1e-4):
            raise SourceError(f"[{spec.name}] source: transformers passes more than token ids to the model")
