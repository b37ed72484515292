"""Cross-encoders: a classifier over query and document in one row, or a decoder that answers yes or no."""

import copy
import inspect
import json
from pathlib import Path
from typing import cast

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
)
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from export import samples
from export.encoder import RowEncoder
from export.errors import SourceError
from export.heads import CrossEncoder, last_token
from export.loading import Model, architecture, load_model, load_tokenizer, loading
from export.manifest import ModelSpec
from export.rows import Rows
from export.runtime.engine import Ids, Row
from export.tower import CROSS_ENCODER, FIRST_LENGTH, TEXT, Tower, Vocabulary, vocabulary

QWEN3_TEMPLATE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct"
    ' provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
    "<Query>: {query}\n<Document>: {document}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
"""From the model card of Qwen/Qwen3-Reranker-0.6B."""
ACTIVATIONS = {"Identity": "none", "Sigmoid": "sigmoid", "Softmax": "softmax"}
"""torch's classes, as sentence-transformers saves them, to what the gateway applies to the logits."""


def load(spec: ModelSpec, folder: Path) -> list[Tower]:
    """Load a sequence classifier, or a causal language model as a reranker of the Qwen3-Reranker kind.

    Raises:
        SourceError: it cannot be loaded, it is neither, or which of its classes means relevant is not said.
    """
    with loading(spec):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=spec.allow_remote_code)
    tokenizer = load_tokenizer(spec, folder)
    if architecture(config).endswith("ForCausalLM"):
        return [_decoder(spec, folder, tokenizer)]
    if architecture(config).endswith("ForSequenceClassification"):
        return [_classifier(spec, folder, tokenizer)]
    raise SourceError(
        f"[{spec.name}] source: {architecture(config) or config.model_type} is no sequence classifier and no causal"
        " language model; to rerank with an embedding model, use task late-interaction"
    )


def _classifier(spec: ModelSpec, folder: Path, tokenizer: Model) -> Tower:
    model = load_model(spec, AutoModelForSequenceClassification, folder)
    base = model.base_model
    encoder = RowEncoder(base, packed=spec.backend != "tensorrt")
    words = vocabulary(spec, tokenizer, base, tokenizer.model_max_length)
    has_segments = (
        "token_type_ids" in inspect.signature(base.forward).parameters
        and (getattr(base.config, "type_vocab_size", 0) or 0) > 1
    )

    def logits(row: Row) -> Tensor:
        ids = torch.from_numpy(row[0])[None]
        arguments = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if has_segments:
            arguments["token_type_ids"] = (torch.arange(ids.shape[1])[None] >= int(row[1])).long()
        scores: Tensor = model(**arguments).logits[0]
        return scores

    return Tower(
        name=spec.name,
        role=CROSS_ENCODER,
        fields=(TEXT, FIRST_LENGTH) if has_segments else (TEXT,),
        head=CrossEncoder(encoder, _Classifier(model)),
        width=model.config.num_labels,
        reference=logits,
        samples=lambda: [row[: 1 + has_segments] for row in _rows(spec, words)],
        vocabulary=words,
        packed=encoder.packed,
        parameters=_template(spec, words) | _activation(spec, model.config),
    )


class _Classifier(torch.nn.Module):
    """What a sequence classifier does with the token vectors of its base model, [N, L, D] to [N, C]."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.base = _Given(getattr(model.base_model, "pooler", None))
        self.model = copy.copy(model)
        self.model._modules = {**model._modules, model.base_model_prefix: self.base}

    def forward(self, hidden: Tensor, rows: Rows) -> Tensor:
        self.base.hidden = cast(torch.FloatTensor, hidden)
        logits: Tensor = self.model(input_ids=rows.ids, attention_mask=rows.valid.to(torch.int64)).logits
        return logits


class _Given(torch.nn.Module):
    """Stands in for a base model whose token vectors are known."""

    hidden: torch.FloatTensor

    def __init__(self, pooler: torch.nn.Module | None) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, *_: object, **__: object) -> BaseModelOutputWithPoolingAndCrossAttentions:
        pooled = self.pooler(self.hidden) if self.pooler is not None else None
        return BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=self.hidden, pooler_output=pooled)


def _activation(spec: ModelSpec, config: PretrainedConfig) -> dict[str, str]:
    """How the gateway makes a score of the logits, as sentence-transformers' CrossEncoder would.

    Raises:
        SourceError: an activation is not known, or which of several classes is meant is not said.
    """
    own = (getattr(config, "sentence_transformers", None) or {}).get("activation_fn")
    named = (own or getattr(config, "sbert_ce_default_activation_function", None) or "").rpartition(".")[2]
    if config.num_labels == 1:
        if named and named not in ACTIVATIONS:
            raise SourceError(f"[{spec.name}] source: the activation {named} is not one of {', '.join(ACTIVATIONS)}")
        return {"activation": ACTIVATIONS[named] if named else "sigmoid"}
    labels = {str(label): index for index, label in (config.id2label or {}).items()}
    if spec.positive_class not in labels:
        raise SourceError(
            f"[{spec.name}] positive_class: must name the label that means relevant, one of {', '.join(labels)}"
        )
    return {"activation": "softmax", "positive_class": str(labels[spec.positive_class])}


def _decoder(spec: ModelSpec, folder: Path, tokenizer: Model) -> Tower:
    model = load_model(spec, AutoModelForCausalLM, folder)
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    if None in (yes, no) or tokenizer.unk_token_id in (yes, no):
        raise SourceError(f'[{spec.name}] source: its vocabulary has no tokens "yes" and "no"')
    words = vocabulary(spec, tokenizer, model.base_model, tokenizer.model_max_length)
    encoder = RowEncoder(model.base_model, packed=spec.backend != "tensorrt")
    table = model.get_output_embeddings().weight
    direction = table[yes] - table[no]

    def difference(row: Row) -> Tensor:
        logits = model(input_ids=torch.from_numpy(row[0])[None], use_cache=False).logits[0, -1]
        answer: Tensor = logits[yes : yes + 1] - logits[no : no + 1]
        return answer

    spec = replace(spec, template=spec.template or QWEN3_TEMPLATE)
    return Tower(
        name=spec.name,
        role=CROSS_ENCODER,
        fields=(TEXT,),
        head=CrossEncoder(encoder, _Answer(direction)),
        width=1,
        reference=difference,
        samples=lambda: [row[:1] for row in _rows(spec, words)],
        vocabulary=words,
        packed=encoder.packed,
        # The sigmoid of the difference is what the softmax of the two logits gives "yes".
        parameters=_template(spec, words) | {"activation": "sigmoid"},
    )


class _Answer(torch.nn.Module):
    """How much likelier "yes" is than "no" after the last token: [N, L, D] to [N, 1], a difference of logits."""

    direction: Tensor

    def __init__(self, direction: Tensor) -> None:
        super().__init__()
        self.register_buffer("direction", direction[:, None])

    def forward(self, hidden: Tensor, rows: Rows) -> Tensor:
        return last_token(hidden, rows) @ self.direction


def _template(spec: ModelSpec, words: Vocabulary) -> dict[str, str]:
    """The parameter that a template becomes; at least half of a row is left to query and document."""
    template = spec.template
    if template is None:
        return {}
    prefix, suffix = template.split("{document}")
    around = sum(len(words.tokenizer.encode(part, add_special_tokens=False)) for part in (prefix, suffix))
    if 2 * around > words.max_tokens:
        raise SourceError(f"[{spec.name}] template: has {around} tokens of the {words.max_tokens} that a row may have")
    return {"template": json.dumps({"prefix": prefix, "suffix": suffix}, ensure_ascii=False)}


def _rows(spec: ModelSpec, words: Vocabulary) -> list[Row]:
    """Pairs at every length, each with the length of its first segment."""
    return [_row(spec, words, i, length) for i, length in enumerate(samples.lengths(words)) if length > 8]


def _row(spec: ModelSpec, words: Vocabulary, start: int, length: int) -> tuple[Ids, ...]:
    query, document = samples.text(start, length), samples.text(start + 3, 8 * length)
    if spec.template is not None:
        before, after = spec.template.replace("{query}", query).split("{document}")
        text, suffix = (
            words.tokenizer.encode(part, add_special_tokens=False).ids for part in (before + document, after)
        )
        ids = [*text[: max(1, length - len(suffix))], *suffix]
        return (np.array(ids, np.int64),)
    pair = words.tokenizer.encode(query, document)
    first = pair.type_ids.index(1) if 1 in pair.type_ids else len(pair.ids)
    ids = [*pair.ids[: length - 1], pair.ids[-1]]
    return np.array(ids, np.int64), np.array(min(first, length), np.int32)
