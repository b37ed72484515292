"""Vision-language models as one encoder of rows: text tokens and the patches of images, all packed.

The patches of all images stand one behind the other, whatever the sizes of the images; the vision tower attends within
each image by an operator, as the text tower does within each row. All that depends on grids is made by the host
(export/runtime/vision.py): transformers' vision towers take it as keywords, and then compute nothing of the grid.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from export.errors import SourceError
from export.loading.models import Model
from export.packing.attention import RowAttention
from export.packing.encoder import RowEncoder
from export.packing.rows import PackedImages, PackedRows, Rows
from export.runtime.vision import Vision

Arguments = dict[str, Any]
"""Keyword arguments of a tower."""


def enter(hidden: Tensor, places: Tensor, features: Sequence[Tensor]) -> Arguments:
    """Arguments of a text tower: vectors of tokens, with features in the place of the tokens that stand for them."""
    return {"inputs_embeds": hidden.index_copy(1, places, features[0][None].to(hidden.dtype))}


@dataclass(frozen=True, slots=True)
class Family:
    """What a family of vision-language models does with images."""

    vision: Callable[[Model], Vision]
    """What a host makes of the grids."""
    visual: Callable[[Model], torch.nn.Module]
    """All modules of the model that `look` needs."""
    text: Callable[[Model], Model]
    """Its text tower, which takes `input_ids` or `inputs_embeds`."""
    look: Callable[[Any, Tensor, PackedImages], Sequence[Tensor]]
    """From `visual` and normalized pixels, [P, 3, size, size], to features of merged patches, [V, D] each."""
    enter: Callable[[Tensor, Tensor, Sequence[Tensor]], Arguments] = enter
    """How features enter the text tower: from the vectors of tokens [1, T, D], places [V] and features to the tower's
    keyword arguments."""
    patch: Callable[[Model], AbstractContextManager[None]] = lambda _: nullcontext()
    """What has to be changed about the text tower meanwhile."""


class VisionEncoder(RowEncoder):
    """Token vectors of rows, from a model that takes texts and images."""

    scale: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, model: Model, processor: Model, family: Family) -> None:
        """Wrap a model, which the backend `torch` will run.

        Args:
            model: without a head, such as transformers' `Qwen3VLModel`.
            processor: its image processor.
            family: its one.

        Raises:
            SourceError: its text tower cannot compute rows that stand one behind the other.
        """
        super().__init__(family.text(model), "torch")
        if not self.packed:
            raise SourceError(f"source: texts and images of the family {model.config.model_type} cannot be batched")
        self.family = family
        self.visual = family.visual(model)
        self.vision = family.vision(model)
        scale, mean, deviation = normalization(processor)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("deviation", deviation, persistent=False)

    def forward(self, rows: Rows | PackedRows) -> Tensor:
        """Encode rows, to [1, T, D], as `RowEncoder` does."""
        if isinstance(rows, Rows) or rows.images is None:
            return super().forward(rows)
        images = rows.images
        features = self.family.look(self.visual, self.pixels(images.patches), images)
        hidden = self.model.get_input_embeddings()(rows.ids)
        positions = rows.position + self._first if rows.positions is None else rows.positions[:, None]
        with self._attending(RowAttention.by_lengths(rows)), self.family.patch(self.model):
            given = self.family.enter(hidden, images.places, features)
            return self._run(position_ids=positions, **given).float()

    def pixels(self, patches: Tensor) -> Tensor:
        """Patches, uint8 [P, B], rescaled and normalized as the image processor does, [P, 3, size, size]."""
        return normalize(patches, self.scale, self.mean, self.deviation)


def normalization(processor: Model) -> tuple[Tensor, Tensor, Tensor]:
    """The factor, mean and deviation of an image processor, float32 [], [3, 1, 1] and [3, 1, 1]."""
    scale = processor.rescale_factor if processor.do_rescale else 1.0
    mean, deviation = (
        (processor.image_mean, processor.image_std) if processor.do_normalize else ((0.0,) * 3, (1.0,) * 3)
    )
    by_channel = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (mean, deviation))
    return torch.tensor(scale, dtype=torch.float32), *by_channel  # type: ignore[return-value]


def normalize(patches: Tensor, scale: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Patches, uint8 [P, B], as float32 [P, 3, size, size], in the order in which image processors compute."""
    size = round((patches.shape[1] / 3) ** 0.5)
    pixels: Tensor = (patches.view(-1, 3, size, size).to(torch.float32) * scale - mean) / deviation
    return pixels
