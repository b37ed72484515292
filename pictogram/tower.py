"""The image tower: a slim ResNet whose logits are an embedding."""

from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from PIL.Image import Resampling
from torch import Tensor
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from export.loading.models import Model
from export.manifest import MANIFEST
from pictogram import augment

WEIGHTS = MANIFEST.with_name("weights") / "minilm-pictogram"
"""The published folder: weights, their model card and figures."""


def create(dimensions: int) -> Model:
    """A new tower with random weights: 3.5 million of them.

    A ResNet-18 (He et al. 2015, arXiv 1512.03385) of half the usual width.
    """
    config = ResNetConfig(  # type: ignore[call-arg] # every configuration takes num_labels
        embedding_size=32,
        hidden_sizes=[48, 96, 160, 256],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        num_labels=dimensions,
    )
    return ResNetForImageClassification(config)


def embed(tower: Model, images: Tensor) -> Tensor:
    """Unit vectors, float32 [n, d], of images [n, 3, H, W]."""
    return F.normalize(tower(images.contiguous(memory_format=torch.channels_last)).logits.float(), dim=-1)


def save(tower: Model, folder: Path) -> None:
    """Write the weights in fp16, and how images are prepared for them."""
    tower.half().save_pretrained(folder)
    ViTImageProcessor(
        size={"height": augment.SIDE, "width": augment.SIDE},
        resample=Resampling.BILINEAR,
        image_mean=[augment.MEAN] * 3,
        image_std=[augment.DEVIATION] * 3,
        do_convert_rgb=True,
    ).save_pretrained(folder)


def load(folder: Path) -> Model:
    """Read weights in fp32."""
    return ResNetForImageClassification.from_pretrained(folder, dtype=torch.float32)
