"""Image-text models: two towers into one space, from one checkpoint (CLIP, SigLIP, ChineseCLIP) or from two."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
)

from export.errors import SourceError
from export.loading.models import Model, architecture, load_model, load_processor, load_tokenizer, loading
from export.manifest import ModelSpec
from export.packing.encoder import RowEncoder
from export.packing.heads import Encode, ImageEmbedding, Outputs, Pool, Project, TextEmbedding
from export.packing.rows import PackedRows, Rows
from export.packing.siglip import NaFlexEmbedding
from export.packing.vision import normalization
from export.runtime.contract import (
    EMBEDDING,
    GRIDS,
    IMAGE_EMBEDDING,
    PATCHES,
    PIXELS,
    TEXT,
    TEXT_EMBEDDING,
    Output,
    Parameters,
    Row,
)
from export.runtime.inputs import Expansion
from export.runtime.vision import Vision
from export.tasks import text_embedding
from export.tasks.vocabulary import check_dimensions, vocabulary
from export.tower import Tower
from export.verification import samples

RESAMPLINGS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers, as preprocessor_config.json has them."""


def load(spec: ModelSpec, folder: Path, image_folder: Path | None = None) -> list[Tower]:
    """Load both towers: `NAME-text` and `NAME-image` in Triton, NAME to clients.

    Args:
        spec: the model's table.
        folder: holds both towers, or the text tower alone.
        image_folder: holds the image tower, if `folder` does not.

    Raises:
        SourceError: a tower cannot be loaded, or is of no known kind.
    """
    if image_folder is None:
        return _joint(spec, folder)
    (text,) = text_embedding.load(spec, folder)
    text = replace(text, name=f"{spec.name}-text")
    vision = _vision(spec, image_folder)
    if vision.width != text.width:
        raise SourceError(f"[{spec.name}] image_source: has {vision.width} dimensions, but source has {text.width}")
    return [_public(spec, text), _public(spec, vision)]


@dataclass(frozen=True, slots=True)
class _TextKind:
    """The pooling and projection of the text tower of one type of checkpoint."""

    pooling: str
    projection: Callable[[Model], Model]
    fills_up: bool = False
    """Whether it was trained on texts filled up to its limit, and is to see them so."""


_TEXT_KINDS: Mapping[str, _TextKind] = {
    "chinese_clip": _TextKind("cls", lambda model: model.text_projection),
    "clip": _TextKind("lasttoken", lambda model: model.text_projection),
    "siglip": _TextKind("lasttoken", lambda model: model.text_model.head, fills_up=True),
    "siglip2": _TextKind("lasttoken", lambda model: model.text_model.head, fills_up=True),
}


def _joint(spec: ModelSpec, folder: Path) -> list[Tower]:
    model = load_model(spec, AutoModel, folder)
    if model.config.model_type not in _TEXT_KINDS:
        raise SourceError(
            f"[{spec.name}] source: a checkpoint of type {model.config.model_type!r} is not one of"
            f" {', '.join(_TEXT_KINDS)}; for a model of two folders, set image_source"
        )
    text = _text(spec, model, load_tokenizer(spec, folder))
    processor = load_processor(spec, folder)
    if model.config.model_type == "siglip2":
        vision = (_naflex if spec.backend == "torch" else _patched)(spec, model, processor)
    else:
        vision = _pixels(
            spec, _ImageModel(model, lambda model, pixels: model.get_image_features(pixels).pooler_output), processor
        )
    return [_public(spec, text), _public(spec, vision)]


def _public(spec: ModelSpec, tower: Tower) -> Tower:
    """A tower under the name that both share."""
    return replace(tower, parameters={**tower.parameters, "name": spec.name})


def _text(spec: ModelSpec, model: Model, tokenizer: Model) -> Tower:
    kind = _TEXT_KINDS[model.config.model_type]
    if kind.fills_up and tokenizer.padding_side != "right":
        raise SourceError(f"[{spec.name}] source: its tokenizer pads on the left, which is not supported")
    config = model.config.text_config
    words = vocabulary(spec, tokenizer, model.text_model, config.max_position_embeddings)
    projection = kind.projection(model)
    check_dimensions(spec, projection.out_features)

    def embed(row: Row) -> Tensor:
        ids = torch.from_numpy(row[0])
        if kind.fills_up:
            missing = torch.full((config.max_position_embeddings - len(ids),), words.padding)
            ids = torch.cat([ids, missing])
        if model.config.model_type == "chinese_clip":  # whose get_text_features asks for a pooler that it does not have
            embedded: Tensor = projection(model.text_model(input_ids=ids[None]).last_hidden_state[0, 0])
        else:
            embedded = model.get_text_features(input_ids=ids[None]).pooler_output[0]
        return embedded

    # Of rows that all are of one length there is nothing to pack.
    encoder = RowEncoder(model.text_model, spec.backend, fills_up=kind.fills_up)
    head: torch.nn.Module = TextEmbedding(Encode(encoder), [Pool(kind.pooling), Project(projection)])
    if kind.fills_up:
        head = _FilledUp(head, config.max_position_embeddings, words.padding)
    return Tower(
        name=f"{spec.name}-text",
        role=TEXT_EMBEDDING,
        fields=(TEXT,),
        head=head,
        outputs=(Output(EMBEDDING, (projection.out_features,)),),
        reference=lambda row: {EMBEDDING: embed(row)},
        samples=lambda: samples.single_rows(words),
        vocabulary=words,
        packed=encoder.packed,
        expansion=Expansion(TEXT.name, config.max_position_embeddings, words.padding, attended=True)
        if kind.fills_up
        else None,
    )


class _FilledUp(torch.nn.Module):
    """A head whose rows are filled up to one length, and see what fills them."""

    def __init__(self, head: torch.nn.Module, length: int, token: int) -> None:
        super().__init__()
        self.head = head
        self.length = length
        self.token = token

    def forward(self, rows: Rows | PackedRows) -> Outputs:
        if isinstance(rows, Rows):  # otherwise the host has done so
            rows = rows.expanded(self.length, self.token, attended=True)
        outputs: Outputs = self.head(rows)
        return outputs


def _vision(spec: ModelSpec, folder: Path) -> Tower:
    """The image tower of a folder of its own: a classifier's logits, or else the first token's vector."""
    with loading(spec, "image_source", folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=spec.allow_remote_code)
    processor = load_processor(spec, folder, "image_source")
    if architecture(config).endswith("ForImageClassification"):
        classifier = load_model(spec, AutoModelForImageClassification, folder, "image_source")
        return _pixels(spec, _ImageModel(classifier, lambda model, pixels: model(pixels).logits), processor)
    encoder = load_model(spec, AutoModel, folder, "image_source")
    return _pixels(spec, _ImageModel(encoder, lambda model, pixels: model(pixels).last_hidden_state[:, 0]), processor)


class _ImageModel(torch.nn.Module):
    """A model with what is wanted of it: normalized pixels, float32 [N, 3, H, W], to [N, D]."""

    def __init__(self, model: Model, embed: Callable[[Model, Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.embed = embed

    def forward(self, pixels: Tensor) -> Tensor:
        return self.embed(self.model, pixels)


def _pixels(spec: ModelSpec, model: _ImageModel, processor: Model) -> Tower:
    """The tower of a model that takes pixels as they are."""
    height, width = _size(spec, processor)

    def embed(row: Row) -> Tensor:
        image = Image.fromarray(np.ascontiguousarray(row[0].transpose(1, 2, 0)))
        crops = {"do_center_crop": False} if hasattr(processor, "do_center_crop") else {}
        ready = processor(images=image, do_resize=False, return_tensors="pt", **crops)
        embedded: Tensor = model(ready["pixel_values"])[0]
        return embedded

    return _image_tower(spec, model, embed, processor, (height, width))


def _patched(spec: ModelSpec, model: Model, processor: Model) -> Tower:
    """The tower of a SigLIP 2 NaFlex model, on square images that fill its grid of positions.

    It takes images of any shape as a list of patches; a graph for batches of images wants one shape, and on the grid
    that the positions were trained for they need no interpolation.
    """
    side = int(model.config.vision_config.num_patches**0.5)
    size = model.config.vision_config.patch_size

    def from_pixels(model: Model, pixels: Tensor) -> Tensor:
        patches = pixels.unfold(2, size, size).unfold(3, size, size)  # [N, 3, side, side, size, size]
        patches = patches.permute(0, 2, 3, 4, 5, 1).reshape(-1, side * side, size * size * 3)
        embeddings = model.vision_model.embeddings
        embeddings.resize_positional_embeddings = lambda grid, *_, **__: grid.flatten(0, 1)[None]
        try:
            embedded: Tensor = model.get_image_features(patches, spatial_shapes=torch.full((1, 2), side)).pooler_output
        finally:
            del embeddings.resize_positional_embeddings
        return embedded

    def embed(row: Row) -> Tensor:
        image = Image.fromarray(np.ascontiguousarray(row[0].transpose(1, 2, 0)))
        ready = processor(images=image, do_resize=False, max_num_patches=side * side, return_tensors="pt")
        embedded: Tensor = model.get_image_features(**ready).pooler_output[0]
        return embedded

    return _image_tower(spec, _ImageModel(model, from_pixels), embed, processor, (side * size, side * size))


def _naflex(spec: ModelSpec, model: Model, processor: Model) -> Tower:
    """The tower of a SigLIP 2 NaFlex model, on images of any shape.

    Raises:
        SourceError: it does not pool, or its image processor does not resize to its patches.
    """
    tower, size = model.vision_model, int(model.config.vision_config.patch_size)
    if not tower.use_head or not processor.do_resize or processor.patch_size != size:
        raise SourceError(f"[{spec.name}] source: its images are not resized to patches of {size} pixels and pooled")

    def embed(row: Row) -> Tensor:
        patches, grids = row
        height, width = (int(side) for side in grids[0])
        parts = patches.reshape(height, width, 3, size, size).transpose(0, 3, 1, 4, 2)
        image = Image.fromarray(np.ascontiguousarray(parts.reshape(height * size, width * size, 3)))
        ready = processor(images=image, do_resize=False, max_num_patches=len(patches), return_tensors="pt")
        embedded: Tensor = model.get_image_features(**ready).pooler_output[0]
        return embedded

    most = int(processor.max_num_patches)
    return Tower(
        name=f"{spec.name}-image",
        role=IMAGE_EMBEDDING,
        fields=(PATCHES, GRIDS),
        head=NaFlexEmbedding(tower, normalization(processor)),
        outputs=(Output(EMBEDDING, (int(tower.config.hidden_size),)),),
        reference=lambda row: {EMBEDDING: embed(row)},
        samples=lambda: [_patches_of(image, size) for image in samples.images_of_any_shape(most, size)],
        vision=Vision(token=-1, merge=1, patch_bytes=3 * size**2, resized=tower.embeddings.position_embedding_size),
        packed=True,
        parameters={
            "image_merge": 1,
            "image_processor": {
                "kind": "naflex",
                "patch": size,
                "merge": 1,
                "max_patches": most,
                "resample": RESAMPLINGS[int(processor.resample)],
            },
        },
    )


def _patches_of(image: NDArray[np.uint8], size: int) -> Row:
    """An image, uint8 [3, H, W], as a row of patches: uint8 [P, 3 * size * size], and their grid."""
    height, width = image.shape[1] // size, image.shape[2] // size
    parts = image.reshape(3, height, size, width, size).transpose(1, 3, 0, 2, 4)
    return parts.reshape(height * width, -1), np.array([[height, width]], np.int32)


def _image_tower(
    spec: ModelSpec,
    model: _ImageModel,
    reference: Callable[[Row], Tensor],
    processor: Model,
    size: tuple[int, int],
) -> Tower:
    height, width = size
    with torch.inference_mode():
        dimensions = model(torch.zeros(1, 3, height, width)).shape[1]
    scale = processor.rescale_factor if processor.do_rescale else 1.0
    plain = ([0.0] * 3, [1.0] * 3)
    mean, deviation = (processor.image_mean, processor.image_std) if processor.do_normalize else plain
    return Tower(
        name=f"{spec.name}-image",
        role=IMAGE_EMBEDDING,
        fields=(PIXELS,),
        head=ImageEmbedding(model, scale, mean, deviation),
        outputs=(Output(EMBEDDING, (dimensions,)),),
        reference=lambda row: {EMBEDDING: reference(row)},
        samples=lambda: [(image,) for image in samples.images(height, width)],
        parameters={
            **_preparation(processor, height, width),
            "image_patches": _patches(model.model, height, width),
        },
    )


def _size(spec: ModelSpec, processor: Model) -> tuple[int, int]:
    """Height and width of what the model sees.

    Raises:
        SourceError: the image processor does not produce images of one size, or not by resizing and cropping.
    """
    resize = dict(processor.size or ())
    crop = dict((processor.crop_size if getattr(processor, "do_center_crop", False) else resize) or ())
    key = "source" if spec.image_source is None else "image_source"
    if not {"height", "width"} <= set(crop):
        raise SourceError(f"[{spec.name}] {key}: its image processor does not produce images of one size: {crop}")
    least = [resize.get(edge, resize.get("shortest_edge", 0)) for edge in ("height", "width")]
    fits = all(crop[edge] <= length for edge, length in zip(("height", "width"), least, strict=True))
    if not processor.do_resize or not fits or set(resize) not in ({"height", "width"}, {"shortest_edge"}):
        raise SourceError(f"[{spec.name}] {key}: its image processor resizes to {resize}, and crops to {crop}")
    return int(crop["height"]), int(crop["width"])


def _patches(model: Model, height: int, width: int) -> int:
    """The number of parts of an image: patches of a transformer, or cells of a convolutional network's last map."""
    config = getattr(model.config, "vision_config", model.config)
    size = getattr(config, "patch_size", None)
    if size is None:
        with torch.inference_mode():
            hidden = model(torch.zeros(1, 3, height, width), output_hidden_states=True).hidden_states[-1]
        return int(hidden[0, 0].numel())
    down, across = size if isinstance(size, (list, tuple)) else (size, size)
    return int(height // down * (width // across))


def _preparation(processor: Model, height: int, width: int) -> Parameters:
    """The resizing and cropping of the image processor, which the gateway applies before it sends an image.

    image_resize has "shortest_edge", after which the centre is cut out, or "height" and "width", which may distort.
    """
    size = dict(getattr(processor, "size", None) or {"height": height, "width": width})
    return {
        "image_height": height,
        "image_width": width,
        "image_resize": size,
        "image_resample": RESAMPLINGS[int(processor.resample)],
    }
