"""Text embedding: what sentence-transformers reads out of a folder, or a transformers model with a pooling named."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
    StaticEmbedding,
    Transformer,
    WeightedLayerPooling,
)
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig

from export.errors import SourceError
from export.loading.models import UNREADABLE, Model, architecture, check_module, loading, model_options, read_settings
from export.manifest import ModelSpec
from export.packing.encoder import RowEncoder
from export.packing.heads import Encode, Lookup, Pool, TextEmbedding
from export.runtime.contract import (
    EMBEDDING,
    PROMPT_LENGTH,
    TEXT,
    TEXT_EMBEDDING,
    TOKEN_VECTORS,
    Output,
    Row,
)
from export.tasks import variants, vision_embedding
from export.tasks.prompts import prompts_of, set_prompts
from export.tasks.vision_rows import reads_images
from export.tasks.vocabulary import MOST_TOKENS, check_dimensions, vocabulary
from export.tower import Tower, Vocabulary
from export.verification import samples

STEPS: Mapping[type[torch.nn.Module], Callable[[Model], torch.nn.Module]] = {
    Pooling: lambda pooling: Pool(*_modes(pooling)),
    # These know no rows: what they make of a token or of a vector, they make of it alone.
    **dict.fromkeys((Dense, Dropout, LayerNorm, Normalize, WeightedLayerPooling), lambda module: module),
}
"""The graph modules for the sentence-transformers modules after the first."""
OTHER_KINDS: Mapping[object, str] = {
    "CrossEncoder": "use task cross-encoder",
    "MultiVectorEncoder": "use task multi-vector",
    "SparseEncoder": "use task sparse",
}
"""The models of sentence-transformers that it would convert to embedding models, and what to do with them instead."""


def load(spec: ModelSpec, folder: Path) -> list[Tower]:
    """Load a sentence-transformers folder, or a transformers folder whose pooling the table names.

    Returns:
        One tower, or one for each variant that the table names. These are one model to clients.

    Raises:
        SourceError: the folder cannot be loaded, holds another kind of model, has modules that are neither a
            transformer nor a StaticEmbedding nor of STEPS, fewer dimensions than are asked for, or not the variants
            that the table names.
    """
    reference = pipeline(spec, folder)
    variants.check(spec, reference)
    if not spec.variants:
        return [tower(spec, spec.name, reference)]
    towers = [tower(spec, name, reference, of) for name, of in zip(spec.triton_names, spec.variants, strict=True)]
    if len({one.width for one in towers}) > 1:
        widths = ", ".join(f"{one.width} of {of}" for one, of in zip(towers, spec.variants, strict=True))
        raise SourceError(f"[{spec.name}] variants: their vectors have different dimensions, {widths}")
    return [
        replace(one, parameters={**one.parameters, "name": spec.name, "variants": spec.variants, "variant": of})
        for one, of in zip(towers, spec.variants, strict=True)
    ]


def pipeline(spec: ModelSpec, folder: Path) -> Model:
    """The reference: the source as sentence-transformers runs it, in fp32.

    Raises:
        SourceError: it cannot be loaded, its pooling is not said or said twice, its prompts are said twice, weights are
            missing, or it holds another kind of model.
    """
    has_modules = (folder / "modules.json").is_file()
    if has_modules == (spec.pooling is not None):
        state = "already set by the source" if has_modules else "required, since the source does not set it"
        raise SourceError(f"[{spec.name}] pooling: {state} (modules.json)")
    _check_kind(spec, folder, has_modules=has_modules)
    with variants.without_adapters(spec, folder) as bare:
        reference = _load(spec, bare, has_modules=has_modules)
    variants.load_adapters(spec, reference, folder)
    return reference.float().eval().requires_grad_(requires_grad=False)


def _load(spec: ModelSpec, folder: Path, *, has_modules: bool) -> Model:
    with loading(spec, folder=folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = model_options(spec)
        if has_modules:
            reference: Model = SentenceTransformer(
                str(folder),
                device="cpu",
                local_files_only=True,
                trust_remote_code=spec.allow_remote_code,
                model_kwargs=options,
            )
        else:
            code = {"trust_remote_code": spec.allow_remote_code, "local_files_only": True}
            transformer = Transformer(
                str(folder), model_kwargs=options | code, processor_kwargs=code, config_kwargs=code
            )
            pooling = Pooling(transformer.get_embedding_dimension(), spec.pooling or "mean")
            reference = SentenceTransformer(modules=[transformer, pooling], device="cpu")
    # sentence-transformers makes up weights that are missing; the same loaded again tells.
    for module, own in variants.located(reference, folder) if has_modules else [(reference[0], folder)]:
        check_module(spec, module, own)
    set_prompts(spec, reference)
    return reference


def _check_kind(spec: ModelSpec, folder: Path, *, has_modules: bool) -> None:
    """Refuse models of other tasks, which sentence-transformers would make embedding models of."""
    kind = read_settings(spec, folder).get("model_type")
    if kind in OTHER_KINDS:
        raise SourceError(f"[{spec.name}] source: it is a {kind} of sentence-transformers: {OTHER_KINDS[kind]}")
    if not has_modules:
        with loading(spec, folder=folder):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=spec.allow_remote_code)
        if architecture(config).endswith("ForSequenceClassification"):
            raise SourceError(f"[{spec.name}] source: {architecture(config)} is a classifier: use task cross-encoder")


def tower(spec: ModelSpec, name: str, reference: Model, variant: str = "") -> Tower:
    """The tower of a pipeline, or of one of its variants, under the name of a Triton model.

    Raises:
        SourceError: a module has no place in a graph, or the modules do not fit together.
    """
    first, *rest = variants.chain(reference, variant)
    adapter = variants.adapter(first, variant)
    while rest and _is_normalization(rest[-1]):  # the gateway's
        rest.pop()
    if reads_images(first):
        _truncation(spec, reference.truncate_dim)
        steps = [_step(spec, module) for module in rest]
        return vision_embedding.tower(spec, name, reference, (first, *rest), steps, adapter)
    poolings = [module for module in rest if isinstance(module, Pooling)]
    width = _truncation(spec, reference.truncate_dim)
    make, words, packed = (
        _static(spec, first) if isinstance(first, StaticEmbedding) else _encoded(spec, first, rest, adapter)
    )
    has_tokens = _is_mean(first, rest)
    parameters = prompts_of(spec, reference)
    if has_tokens:
        parameters["tokens_pooling"] = "mean"
    asks_for_prompts = bool(parameters["prompts"]) and not all(pooling.include_prompt for pooling in poolings)

    embed = _Reference((first, *rest), adapter, width, asks_for_prompts=asks_for_prompts, has_tokens=has_tokens)

    def rows() -> Sequence[Row]:
        plain = samples.single_rows(words)
        return _with_prompts(plain) if asks_for_prompts else plain

    try:
        with torch.inference_mode():
            dimensions = len(embed(rows()[0])[EMBEDDING])
    except UNREADABLE as exc:
        kinds = ", ".join(type(module).__name__ for module in (first, *rest))
        raise SourceError(f"[{spec.name}] source: its modules do not fit together ({kinds}): {exc}") from exc
    check_dimensions(spec, dimensions)
    if asks_for_prompts:
        _check_prompts(spec, first, parameters["prompts"], words)
    return Tower(
        name=name,
        role=TEXT_EMBEDDING,
        fields=(TEXT, PROMPT_LENGTH) if asks_for_prompts else (TEXT,),
        outputs=_outputs(dimensions, has_tokens=has_tokens),
        head=TextEmbedding(make, [_step(spec, module) for module in rest], width, tokens=has_tokens),
        reference=embed,
        samples=rows,
        vocabulary=words,
        packed=packed,
        parameters=parameters,
    )


@dataclass(frozen=True, slots=True)
class _Reference:
    """The modules of a pipeline, or of one of its variants, as sentence-transformers calls them."""

    modules: Sequence[Model]
    adapter: str | None
    """Of the first module."""
    width: int | None
    """How much of each vector counts."""
    asks_for_prompts: bool
    has_tokens: bool

    def __call__(self, row: Row) -> Mapping[str, Tensor]:
        """The vectors before their normalization, which is the gateway's."""
        features: dict[str, Any] = {"input_ids": torch.from_numpy(row[0])}
        first = self.modules[0]
        if isinstance(first, StaticEmbedding):
            features["offsets"] = torch.zeros(1, dtype=torch.int64)
        else:
            features = {"input_ids": features["input_ids"][None], "attention_mask": torch.ones(1, len(row[0]))}
        if self.asks_for_prompts:
            features["prompt_length"] = int(row[1])
        if self.adapter is not None:
            first.auto_model.set_adapter(self.adapter)
        for module in self.modules:
            features = module(features)
        outputs: dict[str, Tensor] = {EMBEDDING: features["sentence_embedding"][0, : self.width]}
        if self.has_tokens:
            pooled = torch.arange(len(row[0])) >= (int(row[1]) if self.asks_for_prompts else 0)
            outputs[TOKEN_VECTORS] = features["token_embeddings"][0, :, : self.width] * pooled[:, None]
        return outputs


def _with_prompts(rows: Sequence[Row]) -> Sequence[Row]:
    """Rows whose first tokens are a prompt: none, 5 or 10, and never all of them."""
    lengths = [min(5 * (i % 3), len(row[0]) - 1) for i, row in enumerate(rows)]
    return [(*row, np.array(length, np.int32)) for row, length in zip(rows, lengths, strict=True)]


def _is_normalization(module: Model) -> bool:
    """Whether a module brings the vectors of rows to length 1."""
    return isinstance(module, Normalize) and module.module_output_name == "sentence_embedding"


def _is_mean(first: Model, rest: Sequence[Model]) -> bool:
    """Whether an embedding is the mean of its tokens' vectors, so that the gateway can make those of chunks."""
    is_pooled = len(rest) == 1 and isinstance(rest[0], Pooling) and tuple(_modes(rest[0])) == ("mean",)
    return is_pooled and isinstance(first, Transformer)


def _outputs(dimensions: int, *, has_tokens: bool) -> tuple[Output, ...]:
    tokens = (Output(TOKEN_VECTORS, (dimensions,), "token"),) if has_tokens else ()
    return (Output(EMBEDDING, (dimensions,)), *tokens)


def _step(spec: ModelSpec, module: Model) -> torch.nn.Module:
    make = STEPS.get(type(module))
    if make is None:
        known = ", ".join(kind.__name__ for kind in STEPS)
        raise SourceError(f"[{spec.name}] source: module {type(module).__name__} is not one of {known}")
    return make(module)


def _modes(pooling: Model) -> Sequence[str]:
    modes: str | Sequence[str] = pooling.pooling_mode
    return (modes,) if isinstance(modes, str) else modes


def _encoded(
    spec: ModelSpec, first: Model, rest: Sequence[Model], adapter: str | None
) -> tuple[torch.nn.Module, Vocabulary, bool]:
    """The first module of a graph for a transformer, its vocabulary, and whether it computes real tokens only.

    Raises:
        SourceError: it is none, or reads texts in a way that is not supported.
    """
    if not isinstance(first, Transformer):
        raise SourceError(
            f"[{spec.name}] source: its first module is a {type(first).__name__}, not a Transformer or StaticEmbedding"
        )
    text = first.modality_config.get("text", {})
    if first.transformer_task != "feature-extraction" or text.get("method_output_name") != "last_hidden_state":
        given = text.get("method_output_name") or ", ".join(map(str, first.modality_config))
        raise SourceError(
            f"[{spec.name}] source: its Transformer is made for {first.transformer_task} and gives {given}, where"
            " vectors of tokens (last_hidden_state) are needed"
        )
    for setting, value in (
        ("message", first.modality_config.get("message")),
        *((name, getattr(first, name)) for name in ("processing_kwargs", "query_length", "document_length")),
        ("query_expansion", first.query_expansion),
    ):
        if value:
            raise SourceError(f"[{spec.name}] source: its Transformer changes texts by {setting}: {value}")
    model = first.auto_model if adapter is None else variants.merged(first.auto_model, adapter)
    words = vocabulary(spec, first.tokenizer, model, first.max_seq_length)
    weighs = any(isinstance(module, WeightedLayerPooling) for module in rest)
    all_layers = weighs and bool(getattr(model.config, "output_hidden_states", False))
    encoder = RowEncoder(model, spec.backend, all_layers=all_layers)
    return Encode(encoder), words, encoder.packed


def _static(spec: ModelSpec, first: Model) -> tuple[torch.nn.Module, Vocabulary, bool]:
    """The same as `_encoded`, for a table of vectors.

    Raises:
        SourceError: the tokenizer has ids that the table has not.
    """
    table = first.embedding.weight.detach()
    # The module adds no special tokens.
    own = Tokenizer.from_str(json.dumps(json.loads(first.tokenizer.to_str()) | {"post_processor": None}))
    most = (own.truncation or {}).get("max_length", MOST_TOKENS)
    own.no_truncation()
    own.no_padding()
    highest = max(own.get_vocab().values())
    if highest >= len(table):
        raise SourceError(
            f"[{spec.name}] source: the tokenizer has ids up to {highest}, but the table ends at {len(table) - 1}"
        )
    packed = spec.backend != "tensorrt"
    words = Vocabulary(own, len(table), spec.max_tokens or min(most, MOST_TOKENS), padding=0)
    return Lookup(table, packed=packed), words, packed


def _truncation(spec: ModelSpec, given: object) -> int | None:
    """The number of dimensions that sentence-transformers truncates to, or None."""
    if given is None or (isinstance(given, int) and not isinstance(given, bool) and given >= 1):
        return given
    raise SourceError(f"[{spec.name}] source: truncate_dim is {given!r}, but must be a number of dimensions")


def _check_prompts(spec: ModelSpec, transformer: Model, named: Mapping[str, str], words: Vocabulary) -> None:
    """Check that prompts are as long as the gateway takes them for: all tokens but a special one at the end.

    Raises:
        SourceError: sentence-transformers takes one for longer or shorter.
    """
    special = [bool(flag) for flag in words.tokenizer.encode("a").special_tokens_mask]
    behind = int(special[-1])
    for name, text in named.items():
        counted = transformer.preprocess(["a"], prompt=text)["prompt_length"]
        own = len(words.tokenizer.encode(text).ids) - behind
        if counted != own:
            raise SourceError(
                f"[{spec.name}] source: its pooling skips {counted} tokens for the prompt {name}, which has {own}"
            )
