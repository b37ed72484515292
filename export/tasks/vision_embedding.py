"""Embedding of texts and images together: sentence-transformers' models whose inputs are messages of a chat."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export.errors import SourceError
from export.loading.models import Model
from export.manifest import ModelSpec
from export.packing.heads import Encode, TextEmbedding
from export.rerankers import INSTRUCTION
from export.runtime.contract import EMBEDDING, GRIDS, PATCHES, TEXT, TEXT_EMBEDDING, Output, Row
from export.tasks import chat, variants
from export.tasks.chat import Chat, Content
from export.tasks.prompts import prompts_of
from export.tasks.vision_rows import VisionRows
from export.tasks.vocabulary import check_dimensions
from export.tower import Tower
from export.verification import samples

SAME = 1e-5
"""The largest difference of 1 and the cosine of vectors that are the same, computed in another order."""


def tower(
    spec: ModelSpec,
    name: str,
    reference: Model,
    modules: Sequence[Model],
    steps: Sequence[torch.nn.Module],
    adapter: str | None,
) -> Tower:
    """The tower of a pipeline, or of one of its variants, under the name of a Triton model.

    Args:
        spec: the model's table.
        name: of the Triton model.
        reference: the whole pipeline.
        modules: those that a message passes, without a normalization at the end.
        steps: the graph modules for all of these but the first.
        adapter: of the first.

    Raises:
        SourceError: its chat template or image processor is not of a kind that is understood.
    """
    first = modules[0]
    _check_settings(spec, first)
    rows = VisionRows.of(spec, first, first.max_seq_length)
    template = chat.of_messages(spec, first)
    parameters = prompts_of(spec, reference)
    if parameters["prompts"] and INSTRUCTION not in template.text:
        raise SourceError(f"[{spec.name}] source: has prompts, but its chat template has no place for an instruction")
    embed = _Reference(tuple(modules), rows, adapter, reference.truncate_dim)
    items = _Items(rows, template)
    model = first.auto_model if adapter is None else variants.merged(first.auto_model, adapter)
    encoder = rows.encoder(model)
    with torch.inference_mode():
        dimensions = len(embed(items.row(["a"]))[EMBEDDING])
    check_dimensions(spec, dimensions)
    made = Tower(
        name=name,
        role=TEXT_EMBEDDING,
        fields=(TEXT, PATCHES, GRIDS),
        outputs=(Output(EMBEDDING, (dimensions,)),),
        head=TextEmbedding(Encode(encoder), steps, reference.truncate_dim),
        reference=embed,
        samples=lambda: items.samples(spec),
        vocabulary=rows.words,
        packed=encoder.packed,
        vision=encoder.vision,
        parameters={**parameters, **rows.parameters, "chat": template.parameter},
    )
    if len(spec.variants) < 2:  # which `encode` would choose among by itself
        _prove(spec, reference, items, made)
    return made


@dataclass(frozen=True, slots=True)
class _Reference:
    """The modules of a pipeline as sentence-transformers calls them."""

    modules: Sequence[Model]
    rows: VisionRows
    adapter: str | None
    """Of the first module."""
    width: int | None
    """How much of each vector counts."""

    def __call__(self, row: Row) -> Mapping[str, Tensor]:
        """The vector before its normalization, which is the gateway's."""
        if self.adapter is not None:
            self.modules[0].auto_model.set_adapter(self.adapter)
        features = self.rows.features(row)
        for module in self.modules:
            features = module(features)
        return {EMBEDDING: features["sentence_embedding"][0, : self.width]}


@dataclass(frozen=True, slots=True)
class _Items:
    """Texts and images as rows of a model, as the gateway makes them too."""

    rows: VisionRows
    template: Chat

    def row(self, content: Content, instruction: str = "") -> Row:
        """A row of texts and images."""
        read = self.rows.read(content)
        return self.rows.row(self.template.render(read, instruction), read)

    def text(self, start: int, length: int) -> Row:
        """A row of real text, cut to a length in front of what stands behind it."""
        behind = len(self.rows.ids(self.template.text.partition(chat.CONTENT)[2]))
        return self.rows.cut(self.row([samples.text(start, 8 * length)]), behind, length)

    def samples(self, spec: ModelSpec) -> list[Row]:
        """Rows of texts of many lengths, of images of many shapes, and of both."""
        around = len(self.row([""])[0])
        texts = [self.text(i, length) for i, length in enumerate(samples.lengths(self.rows.words)) if length > around]
        return self.rows.fitting(spec, [*texts, *(self.row(content) for content in samples.contents())])


def _check_settings(spec: ModelSpec, first: Model) -> None:
    """Refuse a Transformer whose vectors are not those of tokens, or that changes texts or images."""
    given = first.modality_config["message"].get("method_output_name")
    if first.transformer_task != "feature-extraction" or given != "last_hidden_state":
        raise SourceError(
            f"[{spec.name}] source: its Transformer is made for {first.transformer_task} and gives {given}, where"
            " vectors of tokens (last_hidden_state) are needed"
        )
    others = {key: value for key, value in first.processing_kwargs.items() if key != "chat_template"}
    for setting, value in (
        ("processing_kwargs", others),
        *((name, getattr(first, name)) for name in ("query_length", "document_length", "query_expansion")),
    ):
        if value:
            raise SourceError(f"[{spec.name}] source: its Transformer changes texts by {setting}: {value}")


def _prove(spec: ModelSpec, reference: Model, items: _Items, made: Tower) -> None:
    """Compare rows and vectors with those of sentence-transformers' own call for the same texts and images.

    Raises:
        SourceError: they differ, as for settings of a folder that are not read.
    """
    named: Mapping[str, Any] = reference.prompts
    default = named.get(reference.default_prompt_name) or ""
    prompts = ("", *(text for text in named.values() if text))
    limit = made.vocabulary.max_tokens if made.vocabulary else 0
    for prompt in dict.fromkeys(prompts):
        for content in samples.contents():
            row = items.row(content, prompt)
            if len(row[0]) <= limit:  # the library cuts the others, through images too
                items.rows.prove(spec, reference[0].preprocess([chat.message(content)], prompt=prompt or None), row)
    for content in samples.contents()[::6]:
        row = items.row(content, default)
        if len(row[0]) <= limit:
            expected = reference.encode([chat.message(content)], prompt=default or None)[0]
            with torch.inference_mode():
                found = made.reference(row)[EMBEDDING].numpy()
            cosine = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
            if not cosine > 1 - SAME:
                raise SourceError(
                    f"[{spec.name}] source: sentence-transformers passes the model more than its rows have"
                )
