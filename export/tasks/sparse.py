"""Sparse vectors: what sentence-transformers' SparseEncoder reads out of a folder."""

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
from sentence_transformers.util import select_max_active_dims
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig

from export.errors import SourceError
from export.loading.models import Model, architecture, check_module, loading, model_options, read_settings
from export.manifest import ModelSpec
from export.packing.encoder import RowEncoder
from export.packing.sparse import Splade, StaticTerms, WordLogits
from export.runtime.contract import SPARSE_INDICES, SPARSE_WEIGHTS, TEXT, TEXT_EMBEDDING, Output, Row
from export.tasks import variants
from export.tasks.prompts import prompts_of, set_prompts
from export.tasks.vocabulary import MOST_TOKENS, vocabulary
from export.tower import Tower, Vocabulary
from export.verification import samples

LOGS: Mapping[str, int] = {"relu": 1, "log1p_relu": 2}
"""How often log(1 + x) is taken, by SpladePooling's `activation_function`."""
MORE_TERMS = 1.5
"""Room for texts of more terms than the samples have, which are real text up to the model's limit."""
TERMS = 64
"""K is a multiple of this."""
MOST_TERMS = 3840
"""The largest K of a TensorRT plan, by NVIDIA's reference of ITopKLayer.k."""


def load(spec: ModelSpec, folder: Path) -> list[Tower]:
    """Load a folder of sentence-transformers' SparseEncoder, or a masked language model such as naver's SPLADE.

    Returns:
        One tower, or one for each variant that the table names: the routes of an inference-free model.

    Raises:
        SourceError: the folder cannot be loaded, holds another kind of model, is made of other modules than a masked
            language model with SpladePooling or a SparseStaticEmbedding, or has not the variants that the table names.
    """
    reference = pipeline(spec, folder)
    variants.check(spec, reference)
    if not spec.variants:
        return [_tower(spec, spec.name, reference)]
    return [
        replace(tower, parameters={**tower.parameters, "name": spec.name, "variants": spec.variants, "variant": of})
        for name, of in zip(spec.triton_names, spec.variants, strict=True)
        for tower in [_tower(spec, name, reference, of)]
    ]


def pipeline(spec: ModelSpec, folder: Path) -> Model:
    """The reference: the source as sentence-transformers' SparseEncoder runs it, in fp32.

    Raises:
        SourceError: it cannot be loaded, is of another kind, or weights are missing.
    """
    kind = read_settings(spec, folder).get("model_type", SparseEncoder.__name__)
    if kind != SparseEncoder.__name__:
        raise SourceError(
            f"[{spec.name}] source: it is a {kind} of sentence-transformers, whose vectors are not sparse"
        )
    has_modules = (folder / "modules.json").is_file()
    code: dict[str, Any] = {"trust_remote_code": spec.allow_remote_code, "local_files_only": True}
    with loading(spec, folder=folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not has_modules:
            built = architecture(AutoConfig.from_pretrained(folder, **code))
            if not built.endswith("ForMaskedLM"):
                raise SourceError(
                    f"[{spec.name}] source: {built or 'its model'} is no masked language model, from which sparse"
                    " vectors could be made, and modules.json names no modules"
                )
        reference: Model = SparseEncoder(str(folder), device="cpu", model_kwargs=model_options(spec), **code)
    for module, own in variants.located(reference, folder) if has_modules else [(reference[0], folder)]:
        check_module(spec, module, own)
    set_prompts(spec, reference)
    return reference.float().eval().requires_grad_(requires_grad=False)


def _tower(spec: ModelSpec, name: str, reference: Model, variant: str = "") -> Tower:
    """The tower of a model, or of one of its variants, under the name of a Triton model.

    Raises:
        SourceError: it has other modules, or its tokenizer does not fit them.
    """
    modules = tuple(variants.chain(reference, variant))
    most: int | None = reference.max_active_dims
    found: Mapping[bytes, Mapping[str, Tensor]] = {}

    def terms(row: Row) -> Mapping[str, Tensor]:
        """The library's vector, as the words in it and their weights."""
        ids = torch.from_numpy(row[0])[None]
        features: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        for module in modules:
            features = module(features)
        vector = features["sentence_embedding"]
        if most is not None:
            vector = select_max_active_dims(vector.clone(), max_active_dims=most)
        indices = vector[0].nonzero()[:, 0]
        return {SPARSE_INDICES: indices.to(torch.int32), SPARSE_WEIGHTS: vector[0, indices]}

    match modules:
        case (Transformer() as transformer, SpladePooling() as pooling):
            _check_transformer(spec, transformer)
            model = transformer.auto_model
            words = vocabulary(spec, transformer.tokenizer, model.base_model, transformer.max_seq_length)
            encoder = RowEncoder(model.base_model, spec.backend)
            rows = samples.single_rows(words)
            found = {row[0].tobytes(): terms(row) for row in rows}  # long rows take minutes: once, not twice
            longest = max(len(one[SPARSE_INDICES]) for one in found.values())
            kept = kept_terms(spec, words.size, most, longest)
            outputs = (Output(SPARSE_INDICES, (kept,)), Output(SPARSE_WEIGHTS, (kept,)))
            head: torch.nn.Module = Splade(
                encoder,
                WordLogits(model),
                most=kept,
                logs=LOGS[pooling.activation_function],
                total=pooling.pooling_strategy == "sum",
                limited=most is not None and kept > most,
            )
            packed = encoder.packed
        case (SparseStaticEmbedding() as static,):
            if most is not None:
                raise SourceError(
                    f"[{spec.name}] source: max_active_dims, {most}, is not supported where the words of a text are"
                    " its tokens (SparseStaticEmbedding)"
                )
            words = _static_vocabulary(spec, static)
            rows = samples.single_rows(words)
            outputs = (Output(SPARSE_INDICES, (), "token"), Output(SPARSE_WEIGHTS, (), "token"))
            head = StaticTerms(static.weight.detach())
            packed = spec.backend != "tensorrt"
        case _:
            kinds = ", ".join(type(module).__name__ for module in modules)
            raise SourceError(
                f"[{spec.name}] source: a sparse encoder of {kinds} is not supported: it may have a masked language"
                " model (Transformer) and SpladePooling, or a SparseStaticEmbedding"
            )
    return Tower(
        name=name,
        role=TEXT_EMBEDDING,
        fields=(TEXT,),
        outputs=outputs,
        head=head,
        reference=lambda row: found.get(row[0].tobytes()) or terms(row),
        samples=lambda: rows,
        vocabulary=words,
        packed=packed,
        parameters=prompts_of(spec, reference),
    )


def kept_terms(spec: ModelSpec, words: int, most: int | None, longest: int) -> int:
    """The number of words that an entry sends of each text, K.

    If the source itself limits them, one more, which has no weight: a text whose K weights are all above 0 counts as
    truncated.

    Args:
        spec: the model's table, which names the backend.
        words: of the vocabulary.
        most: words that the source keeps, if it limits them.
        longest: words of the sample that has the most.

    Raises:
        SourceError: a sample has more than the backend can keep.
    """
    wanted = most + 1 if most is not None else math.ceil(max(1, longest) * MORE_TERMS / TERMS) * TERMS
    limit = min(words, MOST_TERMS) if spec.backend == "tensorrt" else words
    if longest > limit:
        raise SourceError(
            f"[{spec.name}] backend: texts have up to {longest} words, but TensorRT keeps at most {limit}; use another"
        )
    return min(wanted, limit)


def _check_transformer(spec: ModelSpec, transformer: Model) -> None:
    """Refuse a transformer that is no masked language model of plain texts.

    Raises:
        SourceError: with the setting that says so.
    """
    text = transformer.modality_config.get("text", {})
    if transformer.transformer_task != "fill-mask" or text.get("method_output_name") != "logits":
        raise SourceError(
            f"[{spec.name}] source: its Transformer is made for {transformer.transformer_task}, where logits of a"
            " masked language model (fill-mask) are needed"
        )
    for setting in ("processing_kwargs", "query_length", "document_length", "query_expansion"):
        if value := getattr(transformer, setting):
            raise SourceError(f"[{spec.name}] source: its Transformer changes texts by {setting}: {value}")


def _static_vocabulary(spec: ModelSpec, static: Model) -> Vocabulary:
    """The vocabulary of a table of weights, whose texts have no special tokens.

    Raises:
        SourceError: the tokenizer has ids that the table has not, or a weight is below 0.
    """
    weights = static.weight
    own = Tokenizer.from_str(
        json.dumps(json.loads(static.tokenizer.backend_tokenizer.to_str()) | {"post_processor": None})
    )
    own.no_truncation()
    own.no_padding()
    highest = max(own.get_vocab().values())
    if highest >= len(weights):
        raise SourceError(
            f"[{spec.name}] source: the tokenizer has ids up to {highest}, but the table ends at {len(weights) - 1}"
        )
    if not bool((weights >= 0).all()):
        raise SourceError(f"[{spec.name}] source: its table has weights below 0 or NaN, which no term may have")
    most = spec.max_tokens or min(static.tokenizer.model_max_length, MOST_TOKENS)
    return Vocabulary(own, len(weights), most, padding=0)
