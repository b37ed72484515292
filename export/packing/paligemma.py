"""PaliGemma's towers (arXiv 2407.07726), as ColPali has them, on packed rows."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from export.loading.models import Model
from export.packing import siglip
from export.packing.rows import PackedImages


def look(visual: Model, pixels: Tensor, images: PackedImages) -> Sequence[Tensor]:
    """Features of patches, [P, D]. All images have the size of SigLIP's table of positions.

    Args:
        visual: its vision_tower and multi_modal_projector.
        pixels: normalized, [P, 3, size, size], row by row.
        images: theirs.
    """
    tower, projector = visual["vision_tower"], visual["multi_modal_projector"]
    embeddings = tower.embeddings
    rows = siglip.image_rows(images.starts, images.longest, pixels.shape[0])
    kernel = embeddings.patch_embedding
    hidden = functional.linear(pixels.flatten(1).to(kernel.weight.dtype), kernel.weight.flatten(1), kernel.bias)
    hidden = hidden + embeddings.position_embedding(rows.place)
    return [projector(siglip.encode(tower, hidden, rows))]


class Prefix(torch.nn.Module):
    """PaliGemma's text tower, as it reads a prefix: each token sees all others, and positions begin at 1.

    Its mask says so, and not the tower's config: the text is one block, in which a window does not count either.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.config = model.config
        for layer in model.layers:
            layer.self_attn.sliding_window = None

    def get_input_embeddings(self) -> torch.nn.Module:
        found: torch.nn.Module = self.model.get_input_embeddings()
        return found

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        *,
        use_cache: bool = False,
    ) -> Any:  # noqa: ANN401
        """Token vectors; with a mask of the tokens that there are, of one row."""
        if input_ids is not None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        assert inputs_embeds is not None  # noqa: S101 - either is given
        length = inputs_embeds.shape[1]
        if position_ids is None:
            position_ids = torch.arange(length)[None]
        mask = None if attention_mask is None else torch.zeros(1, 1, length, length)
        return self.model(
            inputs_embeds=inputs_embeds, attention_mask=mask, position_ids=position_ids + 1, use_cache=use_cache
        )
