"""The sizes of published models that read texts and images, and how much they hold and compute."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from loadtest.tools.tiny_vision import ROPE, Sizes
from loadtest.tools.vision_results import Weights

WORDS = 151_936
"""Ids of Qwen's vocabulary."""


@dataclass(frozen=True, slots=True)
class Published:
    """The sizes of a published model, as its config has them."""

    family: str
    """One of tiny_vision.FAMILIES."""
    prefix: str
    """Of its classes in transformers."""
    text: Mapping[str, Any]
    vision: Mapping[str, Any]

    def sizes(self, text_layers: int, vision_layers: int, most_tokens: int, largest: int) -> Sizes:
        """The sizes of a model like it with other numbers of layers.

        Args:
            text_layers: of the text tower.
            vision_layers: of the vision tower; features of up to three of them go deep into the text tower.
            most_tokens: of a row.
            largest: pixels of an image after resizing, at most.
        """
        vision = {**self.vision, "depth": vision_layers}
        if "deepstack_visual_indexes" in vision:
            count = min(len(vision["deepstack_visual_indexes"]), text_layers, vision_layers)
            vision["deepstack_visual_indexes"] = [(i + 1) * vision_layers // (count + 1) for i in range(count)]
        return Sizes({**self.text, "num_hidden_layers": text_layers}, vision, most_tokens, largest)

    def counts(self, width: int, height: int) -> tuple[int, int]:
        """The patches of an image of some pixels, and the tokens that stand for them."""
        merge: int = self.vision["spatial_merge_size"]
        tokens = round(width / self.vision["patch_size"] / merge) * round(height / self.vision["patch_size"] / merge)
        return tokens * merge**2, tokens


def _qwen3(width: int, inner: int, layers: int, heads: int) -> Mapping[str, Any]:
    rope = ROPE | {"rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 262_144,
        "rope_parameters": rope,
    }


def _qwen2(width: int, inner: int, layers: int, heads: int, groups: int) -> Mapping[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "max_position_embeddings": 32_768,
        "rope_parameters": ROPE | {"mrope_section": [16, 24, 24]},
    }


QWEN3_VISION: Mapping[str, Any] = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_heads": 16,
    "patch_size": 16,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "out_hidden_size": 2048,
    "num_position_embeddings": 2304,
    "deepstack_visual_indexes": [5, 11, 17],
}
QWEN2_VISION: Mapping[str, Any] = {
    "depth": 32,
    "num_heads": 16,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
}
PUBLISHED: Mapping[str, Published] = {
    "Qwen3-VL 2B": Published("Qwen3-VL", "Qwen3VL", _qwen3(2048, 6144, 28, 16), QWEN3_VISION),
    "Qwen3-VL 8B": Published(
        "Qwen3-VL",
        "Qwen3VL",
        _qwen3(4096, 12_288, 36, 32),
        {
            **QWEN3_VISION,
            "depth": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "out_hidden_size": 4096,
            "deepstack_visual_indexes": [8, 16, 24],
        },
    ),
    "Qwen2-VL 2B": Published(
        "Qwen2-VL",
        "Qwen2VL",
        _qwen2(1536, 8960, 28, 12, 2),
        {**QWEN2_VISION, "embed_dim": 1280, "hidden_size": 1536, "mlp_ratio": 4},
    ),
    "Qwen2.5-VL 3B": Published(
        "Qwen2.5-VL",
        "Qwen2_5_VL",
        _qwen2(2048, 11_008, 36, 16, 2),
        {
            **QWEN2_VISION,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "out_hidden_size": 2048,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
    ),
}
"""By name, as their repositories on the hub give them."""


def whole(published: Published) -> Weights:
    """The weights of a published model."""
    config = getattr(transformers, f"{published.prefix}Config")(
        text_config={**published.text, "vocab_size": WORDS}, vision_config=dict(published.vision)
    )
    with torch.device("meta"):
        return weights(getattr(transformers, f"{published.prefix}Model")(config))


def weights(model: Any) -> Weights:  # noqa: ANN401 - transformers' classes share no type that says this
    """Count the weights of a model of tiny_vision's families."""
    seen = {name: weight.numel() for name, weight in model.visual.named_parameters() if weight.dim() > 1}
    merging = sum(number for name, number in seen.items() if "merger" in name)
    tower = sum(number for name, number in seen.items() if "merger" not in name and "pos_embed" not in name)
    text = sum(weight.numel() for weight in model.language_model.layers.parameters() if weight.dim() > 1)
    merge = model.config.vision_config.spatial_merge_size
    return Weights(sum(weight.numel() for weight in model.parameters()), tower + merging / merge**2, text)
