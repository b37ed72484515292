"""Cross-encoders: a classifier over query and document in one row, or a decoder that is asked for an answer."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from sentence_transformers import CrossEncoder as Reference
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

from export.errors import SourceError
from export.loading.models import Model, architecture, load_model, loading, model_options, read_settings
from export.manifest import ModelSpec
from export.packing.encoder import RowEncoder
from export.packing.heads import AnyRows, CrossEncoder, last_token
from export.rerankers import BORDER, DOCUMENT, LOGIT_SCORE, QUERY, RERANKERS, PairTemplate, Reranker
from export.runtime.contract import CROSS_ENCODER, FIRST_LENGTH, SCORE, TEXT, Ids, Output, Parameters, Row
from export.tasks import pair_template, vision_reranker
from export.tasks.prompts import describe_prompts
from export.tasks.sequence_classifier import Given, SequenceClassifier, TextRows, listed_modules, saved, takes_segments
from export.tasks.vision_rows import reads_images
from export.tasks.vocabulary import vocabulary
from export.tower import Tower, Vocabulary
from export.verification import samples

MODULES = ("Transformer", "LogitScore")
"""The sentence-transformers modules that a folder may list: the first alone, or both."""
ACTIVATIONS = {"Identity": "none", "Sigmoid": "sigmoid", "Softmax": "softmax"}
"""torch's classes, as sentence-transformers names them, to what the gateway applies to the logits."""


def load(spec: ModelSpec, folder: Path) -> list[Tower]:
    """Load what sentence-transformers' CrossEncoder reads out of a folder, or a decoder whose answers the table names.

    Raises:
        SourceError: it cannot be loaded, it is neither, or which of its classes or tokens means relevant is not said.
    """
    settings = read_settings(spec, folder)
    declared = settings.get("model_type") == "CrossEncoder" and (folder / "modules.json").is_file()
    # What sentence-transformers has written into a folder tells more than its name.
    named = pair_template.known(spec) if spec.template is not None or not declared else None
    reference = _declared(spec, folder) if declared else _assembled(spec, folder, named)
    reference.eval().requires_grad_(requires_grad=False)
    transformer = reference[0]
    load_model(spec, type(transformer.model), Path(transformer.model.config.name_or_path))  # tells of missing weights
    prompt = reference.prompts.get(reference.default_prompt_name, "") if declared else ""
    template = pair_template.choose(spec, transformer, named, prompt)
    if template is None and not declared and isinstance(reference[-1], LogitScore):
        raise SourceError(f"[{spec.name}] template: must be set for a decoder whose source has no chat template")
    model = transformer.model
    if reads_images(transformer):
        if template is None or not isinstance(reference[-1], LogitScore):
            raise SourceError(f"[{spec.name}] source: of models that read images, only those with a LogitScore rank")
        return [
            vision_reranker.tower(
                spec,
                reference,
                template,
                prompt,
                _Answer(model, reference[-1]),
                lambda words, whole: {**_template(spec, words, whole), **_activation(spec, settings, reference)},
            )
        ]
    limit = transformer.processing_kwargs.get("text", {}).get("max_length", transformer.max_seq_length)
    words = vocabulary(spec, transformer.tokenizer, model.base_model, limit)
    pairs = Pairs(TextRows(words, _has_segments(spec, reference, template)), template, prompt)
    encoder = RowEncoder(model.base_model, spec.backend)
    scorer = reference[-1]
    last = int(pairs.row("a", "b", words.max_tokens)[0][-1])
    head = _Answer(model, scorer) if isinstance(scorer, LogitScore) else SequenceClassifier(model, last)
    tower = Tower(
        name=spec.name,
        role=CROSS_ENCODER,
        fields=(TEXT, FIRST_LENGTH) if pairs.rows.segments else (TEXT,),
        head=CrossEncoder(encoder, head),
        outputs=(Output(SCORE, (reference.num_labels,)),),
        reference=lambda row: {SCORE: _scores(reference, row)},
        samples=lambda: [pairs.sample(i, length) for i, length in enumerate(samples.lengths(words)) if length > 8],
        vocabulary=words,
        packed=encoder.packed,
        parameters={
            **_template(spec, words, template),
            **(describe_prompts(reference.prompts, reference.default_prompt_name) if declared and not template else {}),
            **_activation(spec, settings if declared else {}, reference),
        },
    )
    if spec.template is None and spec.instruction is None and (declared or not isinstance(scorer, LogitScore)):
        _prove_texts(spec, reference, pairs, tower)
    return [tower]


def _declared(spec: ModelSpec, folder: Path) -> Model:
    """The modules that a folder lists, if they are known."""
    names = listed_modules(spec, folder, "cross-encoder", MODULES, MODULES[:1])
    if spec.true_token is not None and names == MODULES:
        raise SourceError(f"[{spec.name}] true_token: already set by the source (LogitScore)")
    return saved(spec, folder)


def _assembled(spec: ModelSpec, folder: Path, named: Reranker | None) -> Model:
    """The modules that sentence-transformers would make of a transformers folder, with this model's answer tokens.

    sentence-transformers itself would use "yes" and "no" for every decoder.
    """
    code = {"trust_remote_code": spec.allow_remote_code, "local_files_only": True}
    with loading(spec, folder=folder):
        config = AutoConfig.from_pretrained(folder, **code)
    kind = architecture(config)
    if kind.endswith("ForSequenceClassification"):
        task = "sequence-classification"
    elif kind.endswith("ForCausalLM"):
        task = "text-generation"
        if named is None and spec.true_token is None:
            raise SourceError(
                f"[{spec.name}] template: a causal language model ranks by its answer, and the source does not say"
                f" which: set template to one of {', '.join(RERANKERS)}, or template, true_token and false_token"
            )
    elif hasattr(config, "vision_config"):
        raise SourceError(f"[{spec.name}] source: {kind or 'its model'} as a reranker {LOGIT_SCORE}")
    else:
        raise SourceError(
            f"[{spec.name}] source: {kind or 'its model'} is neither a sequence classifier nor a causal language model;"
            " to rerank with an embedding model, use task multi-vector"
        )
    with loading(spec, folder=folder):
        transformer = Transformer(
            str(folder),
            transformer_task=cast(Any, task),
            model_kwargs=model_options(spec) | code,
            processor_kwargs=dict(code),
            config_kwargs=dict(code),
        )
        modules: list[torch.nn.Module] = [transformer]
    if task == "text-generation":
        modules.append(_logit_score(spec, named, transformer.tokenizer))
    return Reference(modules=modules, device="cpu", activation_fn=torch.nn.Identity())


def _logit_score(spec: ModelSpec, named: Reranker | None, tokenizer: Model) -> LogitScore:
    """The tokens whose logits are the score: the table's, or those of a known reranker."""
    answers = (spec.true_token, spec.false_token)
    if spec.true_token is None and named is not None:
        answers = (named.true_token, named.false_token)
    ids: list[Any] = []
    for key, token in zip(("true_token", "false_token"), answers, strict=True):
        found = tokenizer(token, add_special_tokens=False)["input_ids"] if token is not None else [None]
        if len(found) != 1 or found[0] == tokenizer.unk_token_id is not None:
            raise SourceError(f"[{spec.name}] {key}: {token!r} is not a single token")
        ids += found
    return LogitScore(*ids)


def _has_segments(spec: ModelSpec, reference: Model, template: PairTemplate | None) -> bool:
    """Whether sentence-transformers passes the model token types.

    It does so as the class of the folder's tokenizer does, whatever the model could take.
    """
    if template is not None:
        return False
    types = reference.preprocess([("a b", "c d")]).get("token_type_ids")
    return takes_segments(spec, reference[0].model.base_model, None if types is None else types[0])


def _scores(reference: Model, row: Row) -> Tensor:
    """One row's logits, by sentence-transformers' modules."""
    ids = torch.from_numpy(row[0])[None]
    features: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if len(row) > 1:
        features["token_type_ids"] = (torch.arange(ids.shape[1])[None] >= int(row[1])).long()
    if isinstance(reference[-1], LogitScore):
        features["logits_to_keep"] = 1
    features["modality"] = next(iter(reference[0].modality_config))
    for module in reference:
        features = module(features)
    scores: Tensor = features["scores"][0]
    return scores


class _Answer(torch.nn.Module):
    """The score of a causal language model and LogitScore, from the vector of the last token: [N, 1].

    The model's own code runs, with what it does to logits (a soft cap, a scale), on the few rows of its table of
    output embeddings that count.
    """

    def __init__(self, model: Model, score: LogitScore) -> None:
        super().__init__()
        table = model.get_output_embeddings()
        (name,) = (name for name, module in model.named_children() if module is table)
        ids = [token for token in (score.true_token_id, score.false_token_id) if token is not None]
        answers = torch.nn.Linear(table.in_features, len(ids), bias=table.bias is not None)
        answers.weight = torch.nn.Parameter(table.weight[ids])
        if table.bias is not None:
            answers.bias = torch.nn.Parameter(table.bias[ids])
        self.base = Given()
        self.model = copy.copy(model)
        self.model._modules = {**model._modules, model.base_model_prefix: self.base, name: answers}

    def forward(self, hidden: Tensor, rows: AnyRows) -> Tensor:
        last = last_token(hidden, rows)
        self.base.hidden = cast(torch.FloatTensor, last[:, None])
        ids = torch.zeros_like(last[:, :1], dtype=torch.int64)
        logits: Tensor = self.model(input_ids=ids, use_cache=False).logits[:, 0]  # [N, 1 or 2]
        return logits[:, :1] - logits[:, 1:] if logits.shape[1] > 1 else logits


def _activation(spec: ModelSpec, settings: Mapping[str, Any], reference: Model) -> Parameters:
    """The parameters by which the gateway turns logits into a score, as sentence-transformers' CrossEncoder does.

    Of several classes, the softmax of one is the score unless the source says sigmoid: it says Identity where nobody
    has chosen, and logits of one class do not compare.

    Raises:
        SourceError: an activation is not known, or which of several classes is meant is not said.
    """
    config: PretrainedConfig = reference.config
    path = (
        settings.get("activation_fn")
        or (getattr(config, "sentence_transformers", None) or {}).get("activation_fn")
        or getattr(config, "sbert_ce_default_activation_function", None)
    )
    named = str(path or "").rpartition(".")[2]
    if path is not None and not (named in ACTIVATIONS and str(path).startswith("torch.nn.")):
        raise SourceError(
            f"[{spec.name}] source: the activation {path} is not one of {', '.join(ACTIVATIONS)} of torch.nn"
        )
    if reference.num_labels == 1:
        return {"activation": ACTIVATIONS[named] if named else "sigmoid"}
    labels = {str(label): int(index) for index, label in (config.id2label or {}).items()}
    if spec.positive_class not in labels:
        raise SourceError(
            f"[{spec.name}] positive_class: must name the label that means relevant, one of {', '.join(labels)}"
        )
    activation = "sigmoid" if named == "Sigmoid" else "softmax"
    return {"activation": activation, "positive_class": labels[spec.positive_class]}


def _template(spec: ModelSpec, words: Vocabulary, template: PairTemplate | None) -> Parameters:
    """The parameter that a template becomes; at least half of a row is left to query and document."""
    if template is None:
        return {}
    around = max(
        sum(len(ids) for ids in _parts(words, text))
        for text in (template.text, template.instructed)
        if text is not None
    )
    if 2 * around > words.max_tokens:
        raise SourceError(
            f"[{spec.name}] template: takes {around} of the {words.max_tokens} tokens of a row, more than half"
        )
    parameter: dict[str, Any] = _split(template.text)
    if template.instructed is not None:
        parameter["instructed"] = _split(template.instructed)
    return {"template": parameter}


def _split(text: str) -> dict[str, str]:
    return dict(zip(("prefix", "suffix"), text.split(DOCUMENT), strict=True))


def _parts(words: Vocabulary, text: str) -> list[Ids]:
    """The ids of the texts between borders."""
    parts = text.split(BORDER)
    return [np.array(words.tokenizer.encode(part, add_special_tokens=False).ids, np.int64) for part in parts]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Queries and documents as rows of a model, as the gateway makes them too."""

    rows: TextRows
    template: PairTemplate | None
    prompt: str
    """The prefix of every query, if there is no template."""

    def row(self, query: str, document: str, limit: int) -> Row:
        """A row of at most `limit` tokens: it is the document that is cut."""
        if self.template is not None:
            return (self._fill(self.template.text, query, document, limit),)
        return self.rows.pair(self.prompt + query, document, limit)

    def _fill(self, text: str, query: str, document: str, limit: int) -> Ids:
        before, after = text.split(DOCUMENT)
        suffix = np.concatenate(_parts(self.rows.words, after))
        ids = np.concatenate(_parts(self.rows.words, before.replace(QUERY, query) + document + after))
        return ids if len(ids) <= limit else np.concatenate([ids[: max(1, limit - len(suffix))], suffix])

    def sample(self, start: int, length: int) -> Row:
        """A row of real text, cut to a length."""
        return self.row(samples.text(start, length), samples.text(start + 3, 8 * length), length)


def _prove_texts(spec: ModelSpec, reference: Model, pairs: Pairs, tower: Tower) -> None:
    """Compare rows with those of sentence-transformers for the same texts, and the score of one.

    Raises:
        SourceError: they differ, as for settings of a folder that are not read.
    """
    limit = pairs.rows.words.max_tokens
    cut = {"text": {"max_length": limit}}
    prompt = reference.prompts.get(reference.default_prompt_name)
    for document in (samples.text(3, 20), samples.text(3, 8 * limit)):
        pair = (samples.text(0, 12), document)
        ids = reference.preprocess([pair], prompt=prompt, processing_kwargs=cut)["input_ids"][0].numpy()
        if not np.array_equal(ids, pairs.row(*pair, limit)[0]):
            raise SourceError(
                f"[{spec.name}] source: sentence-transformers tokenizes texts differently than its tokenizer.json"
            )
    pair = (samples.text(0, 12), samples.text(3, 20))
    expected = reference.predict([pair], activation_fn=torch.nn.Identity(), convert_to_tensor=True)[0]
    with torch.inference_mode():
        found = tower.reference(pairs.row(*pair, limit))[SCORE]
    if not torch.allclose(found, expected.reshape(found.shape), atol=1e-4, rtol=1e-4):
        raise SourceError(f"[{spec.name}] source: sentence-transformers passes more than token ids to the model")
