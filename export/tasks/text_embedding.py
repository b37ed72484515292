"""Text embedding: what sentence-transformers reads out of a folder, or a transformers model with a pooling named."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from torch import Tensor

from export import samples
from export.encoder import RowEncoder
from export.errors import SourceError
from export.heads import TextEmbedding
from export.loading import OPTIONS, Model, load_model, loading
from export.manifest import ModelSpec
from export.runtime.engine import Row
from export.tower import TEXT, TEXT_EMBEDDING, Tower, check_dimensions, vocabulary


def load(spec: ModelSpec, folder: Path) -> list[Tower]:
    """Load the tower of a sentence-transformers folder, or of a transformers folder whose pooling the table names.

    Raises:
        SourceError: the folder cannot be loaded, has modules other than a transformer, poolings, dense layers and a
            normalisation, or fewer dimensions than are asked for.
    """
    return [tower(spec, spec.name, pipeline(spec, folder))]


def pipeline(spec: ModelSpec, folder: Path) -> Model:
    """The reference: the source as sentence-transformers runs it, in fp32.

    Raises:
        SourceError: it cannot be loaded, its pooling is not said or said twice, its prompts are said twice, or weights
            are missing.
    """
    has_modules = (folder / "modules.json").is_file()
    if has_modules == (spec.pooling is not None):
        said = "the source says it already" if has_modules else "must be named, since the source does not say it"
        raise SourceError(f"[{spec.name}] pooling: {said} (modules.json)")
    with loading(spec), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = OPTIONS | {"use_safetensors": None if spec.allow_pickle else True}
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
    if isinstance(reference[0], Transformer):
        # sentence-transformers makes up what is missing; the same loaded again tells.
        model = reference[0].auto_model
        load_model(spec, type(model), Path(model.config.name_or_path))
    if spec.prompts:
        if any(reference.prompts.values()):
            raise SourceError(f"[{spec.name}] prompts: the source names its own (config_sentence_transformers.json)")
        reference.prompts = dict(spec.prompts)
    return reference


def tower(spec: ModelSpec, name: str, reference: Model) -> Tower:
    """The tower of a pipeline, under the name of a Triton model."""
    modules = list(reference)
    transformer, pooling, rest = modules[0], modules[1] if len(modules) > 1 else None, modules[2:]
    if not isinstance(transformer, Transformer) or not isinstance(pooling, Pooling):
        kinds = ", ".join(type(module).__name__ for module in modules)
        raise SourceError(f"[{spec.name}] source: not a transformer followed by a pooling, but {kinds}")
    after = [module for module in rest if not isinstance(module, Normalize)]
    if not all(isinstance(module, Dense) for module in after) or after != rest[: len(after)]:
        raise SourceError(
            f"[{spec.name}] source: only dense layers may stand between pooling and normalisation: {rest}"
        )
    reference.eval().requires_grad_(requires_grad=False)
    model = transformer.auto_model
    words = vocabulary(spec, reference.tokenizer, model, reference.max_seq_length)
    modes = pooling.get_config_dict()["pooling_mode"]
    width = int(reference.get_embedding_dimension())
    check_dimensions(spec, width)
    encoder = RowEncoder(model, packed=spec.backend != "tensorrt")

    def embed(row: Row) -> Tensor:
        """The vector before its normalisation, which is the gateway's."""
        features = {"input_ids": torch.from_numpy(row[0])[None], "attention_mask": torch.ones(1, len(row[0]))}
        for module in (transformer, pooling, *after):
            features = module(features)
        return features["sentence_embedding"][0]

    return Tower(
        name=name,
        role=TEXT_EMBEDDING,
        fields=(TEXT,),
        head=TextEmbedding(encoder, (modes,) if isinstance(modes, str) else modes, _Dense(after)),
        width=width,
        reference=embed,
        samples=lambda: samples.single_rows(words),
        vocabulary=words,
        packed=encoder.packed,
        parameters=prompts(spec, reference, pooling),
    )


def prompts(spec: ModelSpec, reference: Model, pooling: Pooling) -> dict[str, str]:
    """The parameters that name a model's prompts.

    Raises:
        SourceError: its prompts are not pooled.
    """
    named = {name: text for name, text in reference.prompts.items() if text}
    if named and not pooling.include_prompt:
        raise SourceError(f"[{spec.name}] source: its pooling leaves out the prompt, which is not supported")
    default = reference.default_prompt_name
    return {
        "prompts": json.dumps(named, ensure_ascii=False) if named else "",
        "default_prompt": default if default in named else "",
    }


class _Dense(torch.nn.Module):
    """Dense modules of sentence-transformers, one after the other: [N, D] to [N, E]."""

    def __init__(self, modules: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.steps = torch.nn.ModuleList(modules)

    def forward(self, pooled: Tensor) -> Tensor:
        for step in self.steps:
            pooled = step({"sentence_embedding": pooled})["sentence_embedding"]
        return pooled
