"""The families of transformers' models for the retrieval of pages, which see images otherwise than their backbones."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from export.loading.models import Model
from export.packing import siglip, vision
from export.packing.rows import PackedImages
from export.packing.vision import Family
from export.runtime.vision import Vision


def _colqwen2(model: Model, processor: Model) -> Vision:
    """ColQwen2 calls Qwen's model with vectors instead of ids: tokens have one position, and no features go deep."""
    return replace(vision._qwen(model.vlm, processor), mrope=False)


def _look_once(visual: Model, pixels: Tensor, images: PackedImages) -> Sequence[Tensor]:
    return vision._look(visual, pixels, images)[:1]


def _colpali(model: Model, processor: Model) -> Vision:  # noqa: ARG001
    config = model.vlm.config
    return Vision(token=config.image_token_id, merge=1, patch_bytes=3 * config.vision_config.patch_size**2)


def _siglip(model: Model) -> torch.nn.Module:
    return torch.nn.ModuleDict({"tower": model.vlm.vision_tower, "projector": model.vlm.multi_modal_projector})


def _look_at_squares(visual: Model, pixels: Tensor, images: PackedImages) -> Sequence[Tensor]:
    """All images of PaliGemma have the size of SigLIP's table of positions (arXiv 2407.07726)."""
    tower, projector = visual["tower"], visual["projector"]
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


RETRIEVERS: Mapping[str, Family] = {
    "colmodernvbert": Family(
        lambda model, processor: vision._modernvbert(model.vlm, processor),
        lambda model: vision._parts("vision_model", "connector")(model.vlm),
        lambda model: model.vlm.text_model,
        siglip.look_at_tiles,
        vision._enter,
    ),
    "colpali": Family(
        _colpali, _siglip, lambda model: Prefix(model.vlm.language_model), _look_at_squares, vision._enter
    ),
    "colqwen2": Family(
        _colqwen2, lambda model: model.vlm.visual, lambda model: model.vlm.language_model, _look_once, vision._enter
    ),
}
"""The families by `model_type`."""
