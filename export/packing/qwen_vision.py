"""The vision towers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL on the patches of many images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from export.loading.models import Model
from export.packing.attention import registered
from export.packing.rows import PackedImages
from export.packing.vision import Arguments, enter
from export.runtime.operators import attend
from export.runtime.vision import Table, Vision

NAME = "flash_by_images"
"""The name in transformers' table. Of an attention with "flash" in its name, towers expect that it takes all images at
once, and others get them one by one, which would ask for the sizes of the images."""


def vision(model: Model) -> Vision:
    """Qwen2-VL (arXiv 2409.12191), Qwen2.5-VL (arXiv 2502.13923) and Qwen3-VL (arXiv 2511.21631)."""
    visual, config = model.visual, model.visual.config
    table = None
    if hasattr(visual, "num_grid_per_side"):
        table = Table(visual.num_grid_per_side, visual.interpolation_mode, visual.interpolation_align_corners)
    return Vision(
        token=model.config.image_token_id,
        merge=config.spatial_merge_size,
        patch_bytes=3 * config.patch_size**2,
        axial=True,
        table=table,
        window=_window(config) if hasattr(config, "window_size") else 0,
        mrope=True,
    )


def look(visual: Model, pixels: Tensor, images: PackedImages) -> Sequence[Tensor]:
    """Features of merged patches, [V, D]: of the last layer and, in Qwen3-VL, of earlier ones.

    Args:
        visual: its vision tower.
        pixels: normalized, [P, 3, size, size], in blocks of merge x merge.
        images: theirs.
    """
    # A patch counts twice, as two frames of a film that stands still.
    frames: int = visual.config.temporal_patch_size
    pixels = pixels[:, :, None].expand(-1, -1, frames, -1, -1).flatten(1)
    made = images.made
    given: Arguments = {
        "cu_seqlens": images.starts,
        "max_seqlen": images.longest,
        "position_ids": made["patch_position"],
    }
    if "taps" in made:
        given |= {"interp_indices": made["taps"], "interp_weights": made["tap_weights"]}
    if "window_index" in made:
        given |= {
            "window_index": made["window_index"],
            "cu_window_seqlens": made["window_starts"],
            "max_window_seqlen": _window(visual.config) ** 2 * visual.config.spatial_merge_size**2,
        }
    with _by_images(visual), _as_product(visual.patch_embed):
        seen = visual(pixels, grid_thw=None, return_dict=True, **given)
    return [seen.pooler_output, *(getattr(seen, "deepstack_features", None) or ())]


def look_once(visual: Model, pixels: Tensor, images: PackedImages) -> Sequence[Tensor]:
    """Features of the last layer only, [V, D]."""
    return look(visual, pixels, images)[:1]


def enter_deeply(hidden: Tensor, places: Tensor, features: Sequence[Tensor]) -> Arguments:
    """Features of earlier layers are added behind the first layers of the text tower (DeepStack, arXiv 2406.04334)."""
    deep = {"visual_pos_masks": places, "deepstack_visual_embeds": list(features[1:])}
    return enter(hidden, places, features) | deep


@contextmanager
def added(text: Model) -> Iterator[None]:
    """Add features at places. By a mask, as Qwen3-VL does, their number would depend on values."""
    text._deepstack_process = lambda hidden, places, features: hidden.index_add(
        1, places, features[None].to(hidden.dtype)
    )
    try:
        yield
    finally:
        del text._deepstack_process


def _window(config: Model) -> int:
    """Merged patches on a side of a window."""
    return int(config.window_size // config.spatial_merge_size // config.patch_size)


@contextmanager
def _by_images(visual: Model) -> Iterator[None]:
    """Attend within images in a vision tower of transformers that hands its attention cumulative lengths."""

    def attention(
        module: torch.nn.Module,  # noqa: ARG001 - the interface has it
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,  # noqa: ARG001
        scaling: float | None = None,
        cu_seq_lens_q: Tensor | None = None,
        max_length_q: int = 0,
        **_: Any,  # noqa: ANN401
    ) -> tuple[Tensor, None]:
        query, key, value = (heads[0].transpose(0, 1) for heads in (query, key, value))  # [P, H, d]
        scale = float(scaling) if scaling is not None else query.shape[-1] ** -0.5
        return attend(query, key, value, cu_seq_lens_q, max_length_q, scale, -1, -1)[None], None

    with registered(visual, NAME, attention):
        yield


@contextmanager
def _as_product(embed: Model) -> Iterator[None]:
    """A convolution that sees each patch once, as the product that it is: a third of the time on a CPU."""
    kernel = embed.proj
    embed.forward = lambda pixels: functional.linear(
        pixels.to(kernel.weight.dtype), kernel.weight.flatten(1), kernel.bias
    )
    try:
        yield
    finally:
        del embed.forward
