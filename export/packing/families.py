"""The families of models that read texts and images together, as data."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from export.errors import SourceError
from export.loading.models import Model
from export.packing import gemma_vision, paligemma, qwen_vision, siglip
from export.packing.vision import Family
from export.runtime.vision import Vision


def _parts(*names: str) -> Callable[[Model], torch.nn.Module]:
    """Some modules of a model, by their names."""
    return lambda model: torch.nn.ModuleDict({name: getattr(model, name) for name in names})


def _modernvbert(model: Model) -> Vision:
    """ModernVBERT (arXiv 2510.01149), whose images are tiles of one size."""
    config = model.config
    size = config.vision_config.patch_size
    return Vision(config.image_token_id, merge=config.pixel_shuffle_factor, patch_bytes=3 * size**2, axial=True)


def _gemma(model: Model) -> Vision:
    """EmbeddingGemma 2, which has the vision tower of Gemma 4."""
    config = model.config.vision_config
    token = model.config.image_token_id
    return Vision(token, merge=config.pooling_kernel_size, patch_bytes=3 * config.patch_size**2, axial=True)


def _paligemma(model: Model) -> Vision:
    config = model.config
    return Vision(token=config.image_token_id, merge=1, patch_bytes=3 * config.vision_config.patch_size**2)


_QWEN = Family(
    vision=qwen_vision.vision,
    visual=lambda model: model.visual,
    text=lambda model: model.language_model,
    look=qwen_vision.look,
)
_MODERNVBERT = Family(
    vision=_modernvbert,
    visual=_parts("vision_model", "connector"),
    text=lambda model: model.text_model,
    look=siglip.look_at_tiles,
)

FAMILIES: Mapping[str, Family] = {
    "embedding_gemma2": Family(
        vision=_gemma,
        visual=_parts("vision_tower", "embed_vision"),
        text=lambda model: model.language_model,
        look=gemma_vision.look,
    ),
    "modernvbert": _MODERNVBERT,
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "qwen3_vl": replace(_QWEN, enter=qwen_vision.enter_deeply, patch=qwen_vision.added),
}
"""The families by `model_type`."""

RETRIEVERS: Mapping[str, Family] = {
    "colmodernvbert": _MODERNVBERT,
    "colpali": Family(
        vision=_paligemma,
        visual=_parts("vision_tower", "multi_modal_projector"),
        text=lambda model: paligemma.Prefix(model.language_model),
        look=paligemma.look,
    ),
    # It calls Qwen's model with vectors instead of ids: tokens have one position, and no features go deep.
    "colqwen2": replace(
        _QWEN, vision=lambda model: replace(qwen_vision.vision(model), mrope=False), look=qwen_vision.look_once
    ),
}
"""Those of transformers' classes for the retrieval of pages, by their `model_type`. Each wraps a model, its `vlm`."""


def family(known: Mapping[str, Family], model: Model) -> Family:
    """The family of a model.

    Raises:
        SourceError: it is not known.
    """
    kind = model.config.model_type
    if kind not in known:
        raise SourceError(f"source: images of the family {kind} are not supported")
    return known[kind]
