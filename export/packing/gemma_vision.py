"""Gemma 4's vision tower, which EmbeddingGemma 2 has too, on the patches of many images."""

from collections.abc import Sequence

import torch
from torch import Tensor

from export.loading.models import Model
from export.packing.attention import RowAttention, in_interface
from export.packing.rows import PackedImages
from export.packing.siglip import image_rows


def look(visual: Model, pixels: Tensor, images: PackedImages) -> Sequence[Tensor]:
    """Features of merged patches, [V, D].

    Args:
        visual: its vision_tower and embed_vision.
        pixels: from 0 to 1, [P, 3, size, size], in blocks of merge x merge.
        images: theirs.
    """
    tower, embed = visual["vision_tower"], visual["embed_vision"]
    rows = image_rows(images.starts, images.longest, pixels.shape[0])
    pixels = pixels.permute(0, 2, 3, 1).flatten(1)[None]  # the channels of a pixel side by side
    position = images.made["patch_position"].flip(1)[None]  # first across, then down
    nothing = torch.zeros_like(position[..., 0], dtype=torch.bool)  # no patch is padding
    hidden = tower.patch_embedder(pixels, position, nothing)
    with in_interface(tower, RowAttention.by_lengths(rows)):
        hidden = tower.encoder(hidden, None, pixel_position_ids=position).last_hidden_state[0]
    # As in its pooler: in float32, since the products exceed float16.
    block = int(tower.config.pooling_kernel_size) ** 2
    merged = hidden.float().unflatten(0, (-1, block)).mean(1) * tower.pooler.root_hidden_size
    if tower.config.standardize:
        merged = (merged - tower.std_bias.float()) * tower.std_scale.float()
    return [embed(merged.to(hidden.dtype))]
