"""Rows of texts and images, and what the source's library makes of the same texts and images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sentence_transformers.base.modules import Transformer
from torch import Tensor

from export.errors import SourceError
from export.loading.models import Model
from export.manifest import ModelSpec
from export.packing.families import FAMILIES, family
from export.packing.vision import VisionEncoder
from export.runtime.contract import Ids, Parameters, Row
from export.tasks.chat import Content, Read, bare
from export.tasks.images import ImageReader
from export.tasks.vocabulary import vocabulary
from export.tower import Vocabulary

LIBRARY = ("input_ids", "mm_token_type_ids", "pixel_values", "image_grid_thw", "image_position_ids")
"""What the library makes of a content that the model is given."""


def reads_images(module: object) -> bool:
    """Whether the first module of a pipeline of sentence-transformers takes texts and images in one message."""
    return isinstance(module, Transformer) and {"image", "message"} <= set(module.modality_config)


@dataclass(frozen=True, slots=True)
class VisionRows:
    """How texts and images become rows: ids in which a token stands for each merged patch, patches and grids."""

    words: Vocabulary
    """Its tokenizer adds no special tokens: templates have them."""
    images: ImageReader
    token: int
    """The id that stands for a merged patch."""
    patch: str
    """Its text."""

    @classmethod
    def of(cls, spec: ModelSpec, transformer: Transformer, limit: int | None) -> "VisionRows":
        """The rows of a model.

        Args:
            spec: its table.
            transformer: the module of sentence-transformers that reads it.
            limit: tokens that the source says it takes.

        Raises:
            SourceError: another backend than torch has to serve it, or its processor is not supported.
        """
        if spec.backend != "torch":
            raise SourceError(f'[{spec.name}] backend: a model that reads images needs backend = "torch"')
        processor: Model = transformer.processor
        if transformer.tokenizer is None or getattr(processor, "image_token_id", None) is None:
            raise SourceError(
                f"[{spec.name}] source: its processor, {type(processor).__name__}, has no token for images"
            )
        model: Model = transformer.model.base_model
        text = getattr(model, "language_model", None) or model.text_model
        found = vocabulary(spec, transformer.tokenizer, text, limit)
        words = Vocabulary(bare(found.tokenizer), found.size, found.max_tokens, found.padding)
        merge = getattr(model.config, "pixel_shuffle_factor", 1)
        images = ImageReader.of(spec, processor.image_processor, model.config.vision_config, merge)
        return cls(words, images, processor.image_token_id, processor.image_token)

    @property
    def parameters(self) -> Parameters:
        """The parameters of an entry that say how the gateway reads images."""
        return {
            "image_token": self.token,
            "image_merge": self.images.merge,
            "image_processor": self.images.parameter,
        }

    def encoder(self, model: Model) -> VisionEncoder:
        """The encoder of a model without a head."""
        return VisionEncoder(model, self.images.processor, family(FAMILIES, model))

    def read(self, content: Content) -> Read:
        """Read the images of a content."""
        return [part if isinstance(part, str) else self.images.see(part, self.patch) for part in content]

    def ids(self, text: str) -> Ids:
        """The ids of a text."""
        return np.array(self.words.tokenizer.encode(text, add_special_tokens=False).ids, np.int64)

    def row(self, text: str, *reads: Read) -> Row:
        """A row of a text with the images of what it was rendered from, in the order in which it has them."""
        seen = [part for read in reads for part in read if not isinstance(part, str)]
        nothing = np.zeros((0, 3 * self.images.size**2), np.uint8)
        grids = np.array([grid for one in seen for grid in one.grids], np.int32).reshape(-1, 2)
        return self.ids(text), np.concatenate([nothing, *(one.patches for one in seen)]), grids

    def cut(self, row: Row, behind: int, limit: int) -> Row:
        """A row of at most `limit` tokens, without those in front of its last `behind`."""
        ids, *images = row
        kept = ids if len(ids) <= limit else np.concatenate([ids[: limit - behind], ids[len(ids) - behind :]])
        return kept, *images

    def fitting(self, spec: ModelSpec, rows: Sequence[Row]) -> list[Row]:
        """The rows that are not too long, or cut through an image.

        Raises:
            SourceError: none with an image is left.
        """
        found = [row for row in rows if len(row[0]) <= self.words.max_tokens]
        if not any(len(row[2]) for row in found):
            raise SourceError(f"[{spec.name}] max_tokens: {self.words.max_tokens} tokens are too few for images")
        return found

    def features(self, row: Row) -> dict[str, Any]:
        """What sentence-transformers hands its modules for a row."""
        ids, patches, grids = row
        images = {}
        if len(grids):
            images = self.images.features(patches.astype(np.uint8), [tuple(grid) for grid in grids.tolist()])
        given = torch.from_numpy(ids)[None]
        found: dict[str, Any] = {
            "input_ids": given,
            "attention_mask": torch.ones_like(given),
            "modality": "message",
        }
        if self.images.marks:
            found["mm_token_type_ids"] = (given == self.token).long()
        return found | images

    def prove(self, spec: ModelSpec, made: Mapping[str, Tensor], row: Row) -> None:
        """Compare a row with what sentence-transformers makes of the same texts and images.

        Raises:
            SourceError: they differ, as for settings of a folder that are not read.
        """
        own = self.features(row)
        for name in LIBRARY:
            if not torch.equal(own.get(name, torch.empty(0)), made.get(name, torch.empty(0))):
                raise SourceError(
                    f"[{spec.name}] source: sentence-transformers reads texts and images differently: {name}"
                )
