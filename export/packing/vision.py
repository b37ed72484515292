"""Vision-language models as one encoder of rows: text tokens and the patches of images, all packed.

The patches of all images stand one behind the other, whatever the sizes of the images; the vision tower attends within
each image by an operator, as the text tower does within each row. All that depends on grids is made by the host
(export/runtime/vision.py): transformers' vision towers take it as keywords, and then compute nothing of the grid.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from export.errors import SourceError
from export.loading.models import Model
from export.packing import gemma_vision, siglip
from export.packing.attention import RowAttention
from export.packing.encoder import RowEncoder
from export.packing.rows import PackedImages, PackedRows, Rows
from export.runtime.operators import attend
from export.runtime.vision import Table, Vision

Arguments = dict[str, Any]
"""Keyword arguments of a tower."""


@dataclass(frozen=True, slots=True)
class Family:
    """What a family of vision-language models does with images."""

    vision: Callable[[Model, Model], Vision]
    """What a host makes of the grids, by the model and its image processor."""
    visual: Callable[[Model], torch.nn.Module]
    """All modules of the model that `look` needs."""
    text: Callable[[Model], Model]
    """Its text tower, which takes `input_ids` or `inputs_embeds`."""
    look: Callable[[Any, Tensor, PackedImages], Sequence[Tensor]]
    """From `visual` and normalized pixels, [P, 3, size, size], to features of merged patches, [V, D] each."""
    enter: Callable[[Model, Tensor, Tensor, Sequence[Tensor]], Arguments]
    """How features enter the text tower: from it, the vectors of the tokens [1, T, D], places [V] and the features to
    the tower's keyword arguments."""
    patch: Callable[[Model], AbstractContextManager[None]] = lambda _: nullcontext()
    """What has to be changed about the text tower meanwhile."""


class VisionEncoder(RowEncoder):
    """Token vectors of rows, from a model that takes texts and images."""

    scale: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, model: Model, processor: Model, families: Mapping[str, Family] | None = None) -> None:
        """Wrap a model, which the backend `torch` will run.

        Args:
            model: without a head, such as transformers' `Qwen3VLModel`.
            processor: its image processor.
            families: those to take it for, by `model_type`; FAMILIES by default.

        Raises:
            SourceError: the family is not known, or its text tower cannot compute rows that stand one behind the other.
        """
        kind = model.config.model_type
        known = FAMILIES if families is None else families
        if kind not in known:
            raise SourceError(f"source: images of the family {kind} are not supported")
        family = known[kind]
        super().__init__(family.text(model), "torch")
        if not self.packed:
            raise SourceError(f"source: texts and images of the family {kind} cannot be batched")
        self.family = family
        self.visual = family.visual(model)
        self.vision = family.vision(model, processor)
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
            given = self.family.enter(self.model, hidden, images.places, features)
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


NAME = "flash_by_images"
"""The name in transformers' table. Of an attention with "flash" in its name, towers expect that it takes all images at
once, and others get them one by one, which would ask for the sizes of the images."""


@contextmanager
def by_images(visual: Model) -> Iterator[None]:
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

    implementation = visual.config._attn_implementation
    ALL_ATTENTION_FUNCTIONS[NAME] = attention
    visual.config._attn_implementation = NAME
    try:
        yield
    finally:
        visual.config._attn_implementation = implementation
        ALL_ATTENTION_FUNCTIONS.pop(NAME)


def put(hidden: Tensor, places: Tensor, features: Tensor) -> Tensor:
    """Vectors of tokens, [1, T, D], with features [V, D] at their places."""
    return hidden.index_copy(1, places, features[None].to(hidden.dtype))


def _look(visual: Model, pixels: Tensor, images: PackedImages) -> Sequence[Tensor]:
    """Qwen's towers take a patch twice, as two frames of a film that stands still."""
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
    with by_images(visual), _as_product(visual.patch_embed):
        seen = visual(pixels, grid_thw=None, return_dict=True, **given)
    return [seen.pooler_output, *(getattr(seen, "deepstack_features", None) or ())]


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


def _window(config: Model) -> int:
    """Merged patches on a side of a window."""
    return int(config.window_size // config.spatial_merge_size // config.patch_size)


def _qwen(model: Model, processor: Model) -> Vision:
    """Qwen2-VL (arXiv 2409.12191), Qwen2.5-VL (arXiv 2502.13923) and Qwen3-VL (arXiv 2511.21631)."""
    visual, config = model.visual, model.visual.config
    table = None
    if hasattr(visual, "num_grid_per_side"):
        table = Table(visual.num_grid_per_side, visual.interpolation_mode, visual.interpolation_align_corners)
    return Vision(
        token=model.config.image_token_id,
        merge=config.spatial_merge_size,
        patch_bytes=3 * processor.patch_size**2,
        axial=True,
        table=table,
        window=_window(config) if hasattr(config, "window_size") else 0,
        mrope=True,
    )


def _enter(_: Model, hidden: Tensor, places: Tensor, features: Sequence[Tensor]) -> Arguments:
    return {"inputs_embeds": put(hidden, places, features[0])}


def _enter_deeply(_: Model, hidden: Tensor, places: Tensor, features: Sequence[Tensor]) -> Arguments:
    """Features of earlier layers are added behind the first layers of the text tower (DeepStack, arXiv 2406.04334)."""
    deep = {"visual_pos_masks": places, "deepstack_visual_embeds": list(features[1:])}
    return {"inputs_embeds": put(hidden, places, features[0]), **deep}


@contextmanager
def _added(text: Model) -> Iterator[None]:
    """Add features at places. By a mask, as Qwen3-VL does, their number would depend on values."""
    text._deepstack_process = lambda hidden, places, features: hidden.index_add(
        1, places, features[None].to(hidden.dtype)
    )
    try:
        yield
    finally:
        del text._deepstack_process


def _visual(model: Model) -> torch.nn.Module:
    found: torch.nn.Module = model.visual
    return found


def _language_model(model: Model) -> Model:
    return model.language_model


def _parts(*names: str) -> Callable[[Model], torch.nn.Module]:
    """Some modules of a model, by their names."""
    return lambda model: torch.nn.ModuleDict({name: getattr(model, name) for name in names})


def _modernvbert(model: Model, processor: Model) -> Vision:  # noqa: ARG001 - all have one signature
    """ModernVBERT (arXiv 2510.01149), whose images are tiles of one size."""
    config = model.config
    size = config.vision_config.patch_size
    return Vision(config.image_token_id, merge=config.pixel_shuffle_factor, patch_bytes=3 * size**2, axial=True)


def _gemma(model: Model, processor: Model) -> Vision:  # noqa: ARG001
    """EmbeddingGemma 2, which has the vision tower of Gemma 4."""
    config = model.config.vision_config
    token = model.config.image_token_id
    return Vision(token, merge=config.pooling_kernel_size, patch_bytes=3 * config.patch_size**2, axial=True)


FAMILIES: Mapping[str, Family] = {
    "embedding_gemma2": Family(
        _gemma, _parts("vision_tower", "embed_vision"), _language_model, gemma_vision.look, _enter
    ),
    "modernvbert": Family(
        _modernvbert,
        _parts("vision_model", "connector"),
        lambda model: model.text_model,
        siglip.look_at_tiles,
        _enter,
    ),
    "qwen2_vl": Family(_qwen, _visual, _language_model, _look, _enter),
    "qwen2_5_vl": Family(_qwen, _visual, _language_model, _look, _enter),
    "qwen3_vl": Family(_qwen, _visual, _language_model, _look, _enter_deeply, _added),
}
"""The families by `model_type`."""
