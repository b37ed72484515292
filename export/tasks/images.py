"""Images of any size as a model's own processor makes patches of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from export.errors import SourceError
from export.loading.models import Model
from export.manifest import ModelSpec

Pixels = NDArray[np.uint8]
Picture = NDArray[np.uint8]
"""uint8 [P, 3 * size * size], the patches of an image, in blocks of merge x merge."""
Grid = tuple[int, int]
"""Its height and width in patches."""
PATCHES = "{patches}"


@dataclass(frozen=True, slots=True)
class Seen:
    """An image that a processor has read."""

    patches: Picture
    """Of all its grids one behind the other."""
    grids: Sequence[Grid]
    """One, or one for each tile."""
    text: str
    """What stands for it in the text: a token for each merged patch, and what the processor writes between them."""


@dataclass(frozen=True, slots=True)
class ImageReader:
    """An image processor of transformers, taken apart: the gateway resizes, and the graph normalizes."""

    processor: Model
    """The image processor."""
    patch: str
    """The text of the token that stands for a merged patch."""
    size: int
    """Pixels on a side of a patch."""
    merge: int
    """Patches on a side of a merged one."""

    KIND: ClassVar[str]
    """The `kind` of the parameter `image_processor`."""
    CLASS: ClassVar[str]
    """The class of the processor, which may have Pil behind it."""
    NEEDED: ClassVar[Sequence[str]] = ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb")
    """What has to be switched on."""
    MARKS: ClassVar[bool] = False
    """Whether it tells the model which tokens are those of images."""

    @property
    def parameter(self) -> Mapping[str, Any]:
        """The parameter `image_processor` of an entry."""
        return {
            "kind": self.KIND,
            "patch": self.size,
            "merge": self.merge,
            **self.own,
            "resample": Image.Resampling(self.processor.resample).name.lower(),
        }

    @property
    def own(self) -> Mapping[str, Any]:
        """What only this kind of it has."""
        raise NotImplementedError

    def read(self, image: Image.Image) -> Seen:
        """Read an image: its patches, resized and not normalized."""
        raise NotImplementedError

    def given(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """What the processor gives the model for images of the right sizes."""
        return dict(self.processor(images=list(images), do_resize=False, return_tensors="pt"))

    def features(self, patches: Picture, grids: Sequence[Grid]) -> dict[str, Tensor]:
        """What the processor gives the model for images that were resized already.

        Args:
            patches: of all images one behind the other.
            grids: of each.
        """
        ends = np.cumsum([height * width for height, width in grids])
        parts = np.split(patches, ends[:-1])
        return self.given([Image.fromarray(self.image(part, grid)) for part, grid in zip(parts, grids, strict=True)])

    def image(self, patches: Picture, grid: Grid) -> Pixels:
        """The pixels of patches, uint8 [H, W, 3]."""
        (height, width), merge, size = grid, self.merge, self.size
        parts = patches.reshape(height // merge, width // merge, merge, merge, 3, size, size)
        pixels = parts.transpose(0, 2, 5, 1, 3, 6, 4).reshape(height * size, width * size, 3)
        return np.ascontiguousarray(pixels)

    def cut(self, image: Pixels) -> tuple[Picture, Grid]:
        """The way back: patches of pixels, and their grid."""
        merge, size = self.merge, self.size
        height, width = image.shape[0] // size, image.shape[1] // size
        parts = image.reshape(height // merge, merge, size, width // merge, merge, size, 3)
        return parts.transpose(0, 3, 1, 4, 6, 2, 5).reshape(height * width, -1), (height, width)

    def placeholders(self, grid: Grid) -> str:
        """The tokens of the merged patches of a grid."""
        return self.patch * (grid[0] * grid[1] // self.merge**2)


@dataclass(frozen=True, slots=True)
class Smart(ImageReader):
    """Qwen's: to multiples of a merged patch, within limits of pixels (smart_resize)."""

    KIND = "smart"
    CLASS = "Qwen2VLImageProcessor"
    MARKS = True

    @property
    def own(self) -> Mapping[str, Any]:
        size = self.processor.size
        return {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}

    def read(self, image: Image.Image) -> Seen:
        made = self.processor(images=[image], do_rescale=False, do_normalize=False, return_tensors="np")
        _, height, width = made["image_grid_thw"][0].tolist()
        patches = made["pixel_values"].reshape(height * width, 3, -1, self.size**2)[:, :, 0]  # all frames are equal
        grid = (height, width)
        return Seen(patches.reshape(height * width, -1).astype(np.uint8), [grid], self.placeholders(grid))


@dataclass(frozen=True, slots=True)
class Tiles(ImageReader):
    """Idefics3's: square tiles, and a small copy of the whole image behind them."""

    KIND = "tiles"
    CLASS = "Idefics3ImageProcessor"

    TILE = "<fake_token_around_image><row_{row}_col_{column}>" + PATCHES
    ROW_END = "\n"
    SINGLE = "<fake_token_around_image><global-img>" + PATCHES + "<fake_token_around_image>"
    WHOLE = "\n" + SINGLE

    @property
    def own(self) -> Mapping[str, Any]:
        return {
            "tile": self.processor.max_image_size["longest_edge"],
            "longest_edge": self.processor.size["longest_edge"],
            "split": bool(self.processor.do_image_splitting),
            "tile_text": self.TILE,
            "row_end": self.ROW_END,
            "whole_text": self.WHOLE,
            "single_text": self.SINGLE,
        }

    def read(self, image: Image.Image) -> Seen:
        made = self.processor(
            images=[[image]], do_rescale=False, do_normalize=False, return_row_col_info=True, return_tensors="np"
        )
        tiles = [self.cut(tile.transpose(1, 2, 0).astype(np.uint8)) for tile in made["pixel_values"][0]]
        rows, columns = made["rows"][0][0], made["cols"][0][0]
        text = "".join(
            "".join(
                self.TILE.replace("{row}", str(row + 1)).replace("{column}", str(column + 1))
                for column in range(columns)
            )
            + self.ROW_END
            for row in range(rows)
        ) + (self.WHOLE if rows else self.SINGLE)
        grids = [grid for _, grid in tiles]
        placed = text.replace(PATCHES, self.placeholders(grids[0]))
        return Seen(np.concatenate([patches for patches, _ in tiles]), grids, placed)

    def given(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        return dict(
            self.processor(images=[list(images)], do_resize=False, do_image_splitting=False, return_tensors="pt")
        )


@dataclass(frozen=True, slots=True)
class Budget(ImageReader):
    """Gemma 4's: the largest size of the same shape within a number of patches."""

    KIND = "budget"
    CLASS = "Gemma4ImageProcessor"
    NEEDED = ("do_resize", "do_rescale", "do_convert_rgb")

    @property
    def own(self) -> Mapping[str, Any]:
        return {"max_patches": self.processor.max_soft_tokens * self.merge**2}

    def read(self, image: Image.Image) -> Seen:
        made = self.processor(images=[image], do_rescale=False, do_normalize=False, return_tensors="np")
        width, height = (made["image_position_ids"][0].max(0) + 1).tolist()
        parts = made["pixel_values"][0][: height * width].reshape(height, width, self.size, self.size, 3)
        pixels = parts.transpose(0, 2, 1, 3, 4).reshape(height * self.size, width * self.size, 3)
        patches, grid = self.cut(pixels.astype(np.uint8))
        return Seen(patches, [grid], self.placeholders(grid))

    def given(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        made = ImageReader.given(self, images)
        del made["num_soft_tokens_per_image"]
        return made


def image_reader(spec: ModelSpec, processor: Model, config: Model) -> ImageReader:
    """The reader of a processor of texts and images.

    Args:
        spec: the model's table.
        processor: it has an image processor, and tokens for images.
        config: of the model.

    Raises:
        SourceError: images become something else than resized patches.
    """
    images = processor.image_processor
    kind = type(images).__name__.removesuffix("Pil")
    readers: Mapping[str, type[ImageReader]] = {reader.CLASS: reader for reader in (Smart, Tiles, Budget)}
    if kind not in readers:
        raise SourceError(f"[{spec.name}] source: its image processor, {kind}, is not one of {', '.join(readers)}")
    switched = [name for name in readers[kind].NEEDED if not getattr(images, name)]
    if switched:
        raise SourceError(f"[{spec.name}] source: its image processor has {switched[0]} = false")
    patch = processor.image_token
    if kind == Tiles.CLASS:
        size, merge = config.vision_config.patch_size, config.pixel_shuffle_factor
        tile = images.max_image_size["longest_edge"]
        if tile != config.vision_config.image_size or processor.image_seq_len != (tile // size // merge) ** 2:
            raise SourceError(f"[{spec.name}] source: its processor makes tiles that are not of the model's size")
        return Tiles(images, patch, size, merge)
    if kind == Budget.CLASS:
        return Budget(images, patch, images.patch_size, images.pooling_kernel_size)
    return Smart(images, patch, images.patch_size, images.merge_size)
