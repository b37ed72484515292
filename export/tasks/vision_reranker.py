"""Rerankers of texts and images: a vision-language model that is asked whether a document fits a query."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export.errors import SourceError
from export.loading.models import Model
from export.manifest import ModelSpec
from export.packing.heads import CrossEncoder
from export.rerankers import BORDER, DOCUMENT, QUERY, PairTemplate
from export.runtime.contract import CROSS_ENCODER, GRIDS, PATCHES, SCORE, TEXT, Output, Parameters, Row
from export.tasks import chat
from export.tasks.chat import Content, ImageText
from export.tasks.vision_rows import VisionRows
from export.tower import Tower, Vocabulary
from export.verification import samples


def tower(
    spec: ModelSpec,
    reference: Model,
    template: PairTemplate,
    prompt: str,
    head: torch.nn.Module,
    parameters: Callable[[Vocabulary, PairTemplate], Parameters],
) -> Tower:
    """The tower of a model of sentence-transformers.

    Args:
        spec: its table.
        reference: a Transformer and a LogitScore.
        template: in which it reads a query and a document.
        prompt: its default one, which the template has.
        head: the score, from vectors of tokens.
        parameters: those of the entry that rerankers of texts have too.

    Raises:
        SourceError: its chat template or image processor is not of a kind that is understood.
    """
    transformer = reference[0]
    limit = transformer.processing_kwargs.get("text", {}).get("max_length", transformer.max_seq_length)
    rows = VisionRows.of(spec, transformer, limit)
    around = chat.special_tokens(transformer.tokenizer)
    whole = PairTemplate(
        around[0] + template.text + around[1],
        None if template.instructed is None else around[0] + template.instructed + around[1],
    )
    pairs = _Pairs(rows, whole.text, chat.image_text(spec, transformer))
    encoder = rows.encoder(transformer.model.base_model)
    images = pairs.images
    made = Tower(
        name=spec.name,
        role=CROSS_ENCODER,
        fields=(TEXT, PATCHES, GRIDS),
        outputs=(Output(SCORE, (reference.num_labels,)),),
        head=CrossEncoder(encoder, head),
        reference=lambda row: {SCORE: _scores(reference, rows.features(row))},
        samples=lambda: pairs.samples(spec),
        vocabulary=rows.words,
        packed=encoder.packed,
        vision=encoder.vision,
        parameters={
            **parameters(rows.words, whole),
            **rows.parameters,
            "chat": {"image": images.written, "patch": images.patch},
        },
    )
    _prove(spec, reference, pairs, made, prompt)
    return made


def _scores(reference: Model, features: dict[str, Any]) -> Tensor:
    """One row's logits, by sentence-transformers' modules."""
    features = {**features, "logits_to_keep": 1}
    for module in reference:
        features = module(features)
    scores: Tensor = features["scores"][0]
    return scores


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Queries and documents as rows of a model, as the gateway makes them too."""

    rows: VisionRows
    template: str
    images: ImageText

    def row(self, query: Content, document: Content, limit: int | None = None) -> Row:
        """A row of at most `limit` tokens: it is the document that is cut."""
        asked, given = self.rows.read(query), self.rows.read(document)
        before, after = self.template.split(DOCUMENT)
        text = before.replace(QUERY, self.images.of(asked)) + self.images.of(given) + after
        parts = [self.rows.row(part) for part in text.split(BORDER)]
        row = (np.concatenate([ids for ids, *_ in parts]), *self.rows.row("", asked, given)[1:])
        behind = sum(len(self.rows.ids(part)) for part in after.split(BORDER))
        return row if limit is None else self.rows.cut(row, behind, limit)

    def samples(self, spec: ModelSpec) -> list[Row]:
        """Documents of texts of many lengths, of images of many shapes, and of both, under queries of all kinds."""
        contents = samples.contents()
        queries: list[Content] = [[samples.text(0, 12)], [samples.text(2, 40)], *contents[:2]]
        least = len(self.row(queries[1], [""])[0])
        texts = [
            self.row(queries[i % 2], [samples.text(i + 3, 8 * length)], length)
            for i, length in enumerate(samples.lengths(self.rows.words))
            if length > least
        ]
        mixed = [self.row(queries[i % len(queries)], content) for i, content in enumerate(contents)]
        return self.rows.fitting(spec, [*texts, *mixed])


def _prove(spec: ModelSpec, reference: Model, pairs: _Pairs, made: Tower, prompt: str) -> None:
    """Compare rows and scores with those of sentence-transformers' own call for the same texts and images.

    Raises:
        SourceError: they differ, as for settings of a folder that are not read.
    """
    if spec.template is not None or spec.instruction is not None:
        return  # which the library does not know
    contents = samples.contents()
    for query, document in ((contents[1], contents[0]), ([samples.text(0, 12)], contents[3]), (["a"], ["b"])):
        messages = chat.pair(query, document)
        row = pairs.row(query, document)
        if len(row[0]) > pairs.rows.words.max_tokens:
            continue
        pairs.rows.prove(spec, reference[0].preprocess([messages], prompt=prompt or None), row)
        expected = reference.predict(
            [messages], prompt=prompt or None, activation_fn=torch.nn.Identity(), convert_to_tensor=True
        )[0]
        with torch.inference_mode():
            found = made.reference(row)[SCORE]
        if not torch.allclose(found, expected.reshape(found.shape), atol=1e-4, rtol=1e-4):
            raise SourceError(
                f"[{spec.name}] source: sentence-transformers passes more to the model than its rows have"
            )
