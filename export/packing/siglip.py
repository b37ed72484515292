"""SigLIP's vision towers on the patches of many images, which stand one behind the other."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from export.loading.models import Model
from export.packing.attention import RowAttention, in_interface
from export.packing.rows import PackedImages, PackedRows
from export.packing.vision import normalize
from export.runtime.contract import EMBEDDING


def image_rows(starts: Tensor, longest: int, patches: int) -> PackedRows:
    """Patches as rows without ids, one for each image and an empty one.

    Args:
        starts: int32 [I + 2], where each image begins.
        longest: at least the patches of the largest image.
        patches: P, of all.
    """
    patch = torch.arange(patches, device=starts.device)
    row = torch.searchsorted(starts[1:], patch.to(torch.int32), right=True)
    return PackedRows(torch.zeros_like(patch)[None], patch - starts[row], row, starts, longest)


def encode(tower: Model, hidden: Tensor, rows: PackedRows) -> Tensor:
    """The vectors of patches, [P, D], of these with their positions."""
    with in_interface(tower, RowAttention.by_lengths(rows)):
        encoded = tower.encoder(inputs_embeds=hidden[None], attention_mask=None).last_hidden_state
    vectors: Tensor = tower.post_layernorm(encoded)[0]
    return vectors


def _rows(images: PackedImages) -> PackedRows:
    return image_rows(images.starts, images.longest, images.patches.shape[0])


def look_at_tiles(visual: Model, pixels: Tensor, images: PackedImages) -> Sequence[Tensor]:
    """ModernVBERT's features of merged patches: SigLIP on tiles of one size (arXiv 2510.01149).

    Args:
        visual: its vision_model and connector.
        pixels: normalized, [P, 3, size, size], in blocks of merge x merge.
        images: the tiles.
    """
    tower, connector = visual["vision_model"], visual["connector"]
    embed = tower.embeddings
    weight = embed.patch_embedding.weight.flatten(1)
    hidden = functional.linear(pixels.flatten(1).to(weight.dtype), weight, embed.patch_embedding.bias)
    row, column = images.made["patch_position"].unbind(1)
    hidden = hidden + embed.position_embedding(row * (embed.image_size // embed.patch_size) + column)
    hidden = encode(tower, hidden, _rows(images))
    # Its pixel_shuffle puts the patches of a block side by side, row by row, as they are here.
    merged = hidden.reshape(-1, connector.pixel_shuffle_factor**2 * hidden.shape[1])
    return [connector.modality_projection(merged)]


class NaFlexEmbedding(torch.nn.Module):
    """One vector an image, not normalized, by SigLIP 2's vision tower for images of any shape (arXiv 2502.14786)."""

    scale: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, model: Model, normalization: tuple[Tensor, Tensor, Tensor]) -> None:
        """Take a Siglip2VisionModel that pools.

        Args:
            model: the vision tower.
            normalization: the factor, mean and deviation of its image processor, as `normalization` gives them.
        """
        super().__init__()
        self.model = model
        for name, values in zip(("scale", "mean", "deviation"), normalization, strict=True):
            self.register_buffer(name, values, persistent=False)

    def forward(self, images: PackedImages) -> dict[str, Tensor]:
        """Embed I images to [I + 1, D]; the last is nobody's."""
        embeddings, rows = self.model.embeddings, _rows(images)
        weight = embeddings.patch_embedding.weight
        pixels = normalize(images.patches, self.scale, self.mean, self.deviation)
        pixels = pixels.permute(0, 2, 3, 1).flatten(1)  # it has the channels of a pixel side by side
        hidden = embeddings.patch_embedding(pixels.to(weight.dtype)) + self._positions(images)
        return {EMBEDDING: self._pool(encode(self.model, hidden, rows), rows).float()}

    def _positions(self, images: PackedImages) -> Tensor:
        """The table of positions resized to the grid of each image, [P, D].

        It is linear in each axis: each patch weighs the rows of the table, and its columns.
        """
        table = self.model.embeddings.position_embedding.weight
        down, across = images.made["row_weights"], images.made["column_weights"]  # [P, side]
        weights = (down[:, :, None] * across[:, None]).flatten(1)
        positions: Tensor = (weights @ table.float()).to(table.dtype)
        return positions

    def _pool(self, hidden: Tensor, rows: PackedRows) -> Tensor:
        """Attend to the patches of each image by a learned query, and an MLP (arXiv 2106.04560, section 3.5)."""
        head = self.model.head
        attention = head.attention
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        query = functional.linear(head.probe[0], weights[0], biases[0]) * attention.head_dim**-0.5
        key, value = (functional.linear(hidden, weights[i], biases[i]).float() for i in (1, 2))
        heads = (attention.num_heads, attention.head_dim)
        scores = (key * query.float()).view(-1, *heads).sum(2)  # [P, H]
        shares = torch.exp(scores - rows.max(scores[None])[rows.row])
        mixed = rows.sum((value.view(-1, *heads) * shares[..., None]).flatten(1)[None])
        total = rows.sum(shares[None]).repeat_interleave(attention.head_dim, 1)
        # Of an image without patches, both are 0.
        pooled = attention.out_proj((mixed / total.clamp(min=torch.finfo(torch.float32).tiny)).to(hidden.dtype))
        vectors: Tensor = pooled + head.mlp(head.layernorm(pooled))
        return vectors
