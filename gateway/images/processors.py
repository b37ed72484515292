"""Image processors of models that take images of any size: how large an image becomes, and how it is cut into patches.

Each class is one kind of the parameter `image_processor` (docs/repository-entry.md) and computes the same sizes, in the
same floating-point operations, as the processor of transformers that it names.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import msgspec
import numpy as np
from msgspec import Meta, Struct
from PIL.Image import Resampling

from gateway.images.preparation import Grid, Patches, Pixels, Preparation

Side = Annotated[int, Meta(ge=1, le=64)]
"""Pixels of a patch's side."""
Merge = Annotated[int, Meta(ge=1, le=16)]
"""Patches along each side of the block that becomes one token."""
Edge = Annotated[int, Meta(ge=1, le=4096)]
"""Pixels of a side. Idefics3's processor resizes no image to more."""
Area = Annotated[int, Meta(ge=1, le=2**26)]
"""Pixels of a resized image."""
Count = Annotated[int, Meta(ge=1, le=2**16)]
Resample = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
Size = tuple[int, int]
"""Height and width in pixels."""

PATCHES = "{patches}"
"""Stands in templates for the placeholders of an image's merged patches."""
MAX_RATIO = 200
"""The largest ratio of an image's sides for Qwen's processors."""
MAX_SCALE, MIN_STEP = 100.0, 1e-5
"""The largest scale of an image and the precision of the scale, for SigLIP 2's processor."""


class LimitError(ValueError):
    """A limit of a request that the model does not support; `name` is its field, with which the message begins."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


@dataclass(frozen=True, slots=True)
class Layout:
    """How an image of some size becomes patches."""

    sizes: tuple[Size, ...]
    """What the image is resized to, one size after the other."""
    grids: tuple[Grid, ...]
    tiles: Grid = (0, 0)
    """Rows and columns of the tiles that are cut from the last size; (0, 0) for none. The last grid is then that of the
    whole image, resized to the size of a tile."""

    @property
    def patches(self) -> int:
        """Patches of all grids."""
        return sum(height * width for height, width in self.grids)


class Processor(Struct, frozen=True, kw_only=True, tag_field="kind", forbid_unknown_fields=True):
    """What all kinds have."""

    patch: Side
    merge: Merge = 1
    resample: Resample = "bicubic"

    @property
    def block(self) -> int:
        """Pixels of the side of a merged patch. Sizes are multiples of it."""
        return self.patch * self.merge

    @property
    def patch_bytes(self) -> int:
        return 3 * self.patch**2

    @property
    def min_patches(self) -> int:
        """The fewest patches that any image may have, before merging."""
        return self.merge**2

    @property
    def filter(self) -> Resampling:
        return Resampling[self.resample.upper()]

    def limited(self, min_pixels: int | None, max_pixels: int | None) -> Self:
        """The same with the limits of a request instead of the model's. None keeps the model's.

        Raises:
            LimitError: the processor has no such limits, or these are outside the model's.
        """
        for name, given in (("min_pixels", min_pixels), ("max_pixels", max_pixels)):
            if given is not None:
                raise LimitError(name, f"{name} is not supported by this model")
        return self

    def merged(self, grids: tuple[Grid, ...]) -> int:
        """The tokens that patches of these grids become."""
        return sum(height * width for height, width in grids) // self.merge**2

    def text(self, image: str, patch: str, patches: Patches | Layout) -> str:
        """What stands for an image in the text.

        Args:
            image: the template of an image, with {patches}.
            patch: the text of the token that stands for one merged patch.
            patches: the image.
        """
        return image.replace(PATCHES, patch * self.merged(patches.grids))

    def _one(self, height: int, width: int) -> Layout:
        return Layout(((height, width),), ((height // self.patch, width // self.patch),))


class Smart(Processor, frozen=True, kw_only=True, tag="smart"):
    """Qwen2-VL and its successors (smart_resize): multiples of a block, and a number of pixels within limits."""

    min_pixels: Area
    max_pixels: Area

    def __post_init__(self) -> None:
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels ({self.min_pixels}) exceeds max_pixels ({self.max_pixels})")

    @property
    def max_patches(self) -> int:
        """Thin images and those enlarged to `min_pixels` are rounded to a little more than the limits."""
        thin = self.block * math.sqrt(MAX_RATIO * self.max_pixels)
        enlarged = (math.sqrt(MAX_RATIO * self.min_pixels) + self.block) * (math.sqrt(self.min_pixels) + self.block)
        return int(max(self.max_pixels, thin, enlarged)) // self.patch**2

    def limited(self, min_pixels: int | None, max_pixels: int | None) -> Self:
        least = self.min_pixels if min_pixels is None else min_pixels
        most = self.max_pixels if max_pixels is None else max_pixels
        for name, given in (("min_pixels", min_pixels), ("max_pixels", max_pixels)):
            if given is not None and not self.min_pixels <= given <= self.max_pixels:
                raise LimitError(name, f"{name} must be from {self.min_pixels} to {self.max_pixels}, not {given}")
        if least > most:
            raise LimitError("min_pixels", f"min_pixels ({least}) must not exceed max_pixels ({most})")
        return msgspec.structs.replace(self, min_pixels=least, max_pixels=most)

    def layout(self, height: int, width: int) -> Layout:
        """How an image of this size, in pixels, becomes patches.

        Raises:
            ValueError: images of this shape are refused; the message completes a sentence about the image.
        """
        if max(height, width) / min(height, width) > MAX_RATIO:
            raise ValueError(
                f"has {width} x {height} pixels; the longer side may be at most {MAX_RATIO} times the shorter"
            )
        block = self.block
        rows, columns = round(height / block) * block, round(width / block) * block
        if rows * columns > self.max_pixels:
            shrink = math.sqrt((height * width) / self.max_pixels)
            rows = max(block, math.floor(height / shrink / block) * block)
            columns = max(block, math.floor(width / shrink / block) * block)
        elif rows * columns < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            rows = math.ceil(height * grow / block) * block
            columns = math.ceil(width * grow / block) * block
        return self._one(rows, columns)


class Fixed(Processor, frozen=True, kw_only=True, tag="fixed"):
    """PaliGemma (SiglipImageProcessor): one size, whatever the aspect ratio."""

    height: Edge
    width: Edge

    def __post_init__(self) -> None:
        if self.height % self.block or self.width % self.block:
            raise ValueError(f"height and width must be multiples of patch * merge ({self.block})")

    @property
    def min_patches(self) -> int:
        return self.max_patches

    @property
    def max_patches(self) -> int:
        return (self.height // self.patch) * (self.width // self.patch)

    def layout(self, height: int, width: int) -> Layout:  # noqa: ARG002 - all kinds take the size
        """How an image of any size becomes patches."""
        return self._one(self.height, self.width)


class Tiles(Processor, frozen=True, kw_only=True, tag="tiles"):
    """Idefics3 and SmolVLM: the image is cut into square tiles, and a small copy of all of it follows."""

    tile: Edge
    longest_edge: Edge
    split: bool = True
    """Whether to cut at all. If not, the only tile is the whole image."""
    tile_text: str
    """What stands for a tile in the text, with {row} and {column}, from 1, and {patches}."""
    row_end: str
    """Follows the last tile of each row."""
    whole_text: str
    """What stands for the whole image behind its tiles, with {patches}."""
    single_text: str
    """What stands for an image that is not cut, with {patches}."""

    def __post_init__(self) -> None:
        if self.tile % self.block:
            raise ValueError(f"tile must be a multiple of patch * merge ({self.block})")

    @property
    def min_patches(self) -> int:
        return int((self.tile // self.patch) ** 2)

    @property
    def max_patches(self) -> int:
        along = math.ceil(self.longest_edge / self.tile)
        tiles = along**2 + 1 if self.split and along > 1 else 1
        return int(tiles * self.min_patches)

    def layout(self, height: int, width: int) -> Layout:
        """How an image of this size, in pixels, becomes tiles and their patches."""
        first = self._resized(height, width)
        second = self._multiples(*first) if self.split else (self.tile, self.tile)
        rows, columns = second[0] // self.tile, second[1] // self.tile
        side = self.tile // self.patch
        if rows * columns == 1:
            return Layout((first, second), ((side, side),))
        return Layout((first, second), ((side, side),) * (rows * columns + 1), (rows, columns))

    def text(self, image: str, patch: str, patches: Patches | Layout) -> str:
        placeholders = patch * self.merged(patches.grids[:1])
        rows, columns = patches.tiles
        tiles = "".join(
            "".join(
                self.tile_text.replace("{row}", str(row + 1)).replace("{column}", str(column + 1))
                for column in range(columns)
            )
            + self.row_end
            for row in range(rows)
        )
        all_of_it = tiles + self.whole_text if rows else self.single_text
        return image.replace(PATCHES, all_of_it.replace(PATCHES, placeholders))

    def _resized(self, height: int, width: int) -> Size:
        """The longest edge becomes `longest_edge`; the other keeps the aspect ratio."""
        ratio = width / height
        if width >= height:
            short = int(self.longest_edge / ratio)
            return max(short + short % 2, 1), self.longest_edge
        short = int(self.longest_edge * ratio)
        return self.longest_edge, max(short + short % 2, 1)

    def _multiples(self, height: int, width: int) -> Size:
        ratio = width / height
        if width >= height:
            width = math.ceil(width / self.tile) * self.tile
            return math.ceil(int(width / ratio) / self.tile) * self.tile, width
        height = math.ceil(height / self.tile) * self.tile
        return height, math.ceil(int(height * ratio) / self.tile) * self.tile


class Budget(Processor, frozen=True, kw_only=True, tag="budget"):
    """Gemma 4 and EmbeddingGemma 2: the largest size of the same aspect ratio within a number of patches."""

    max_patches: Count

    def __post_init__(self) -> None:
        if self.max_patches < self.merge**2:
            raise ValueError(f"max_patches must be at least one block of {self.merge} x {self.merge}")

    def layout(self, height: int, width: int) -> Layout:
        """How an image of this size, in pixels, becomes patches."""
        block, most = self.block, self.max_patches // self.merge**2
        factor = math.sqrt(self.max_patches * self.patch**2 / (height * width))
        rows, columns = math.floor(factor * height / block), math.floor(factor * width / block)
        if rows == 0:
            rows, columns = 1, min(width // height, most)
        elif columns == 0:
            rows, columns = min(height // width, most), 1
        return self._one(rows * block, columns * block)


class NaFlex(Processor, frozen=True, kw_only=True, tag="naflex"):
    """SigLIP 2 NaFlex: the largest size, about of the same aspect ratio, within a number of patches."""

    max_patches: Count

    def layout(self, height: int, width: int) -> Layout:
        """How an image of this size, in pixels, becomes patches."""
        least, most = MIN_STEP / 10, MAX_SCALE
        while most - least >= MIN_STEP:
            scale = (least + most) / 2
            rows, columns = self._scaled(scale, height), self._scaled(scale, width)
            if (rows / self.patch) * (columns / self.patch) <= self.max_patches:
                least = scale
            else:
                most = scale
        return self._one(self._scaled(least, height), self._scaled(least, width))

    def _scaled(self, scale: float, side: int) -> int:
        return max(self.patch, math.ceil(side * scale / self.patch) * self.patch)


AnyProcessor = Smart | Fixed | Tiles | Budget | NaFlex
"""Each has `layout(height, width)`, which tells the patches of an image of this size, and `max_patches`, the most
patches that any image may have, before merging."""


def max_bytes(preparation: Preparation | AnyProcessor) -> int:
    """The most bytes of a prepared image."""
    if isinstance(preparation, Preparation):
        return 3 * preparation.height * preparation.width
    return preparation.max_patches * preparation.patch_bytes


def read(text: str) -> AnyProcessor:
    """Read the parameter `image_processor`.

    Raises:
        ValueError: it is not JSON, is of an unknown kind, or has a value that is missing, unknown or out of range.
    """
    processor: AnyProcessor = msgspec.json.decode(text, type=AnyProcessor)
    return processor


def black(preparation: Preparation | AnyProcessor) -> Pixels | Patches:
    """The smallest black image that a model accepts."""
    if isinstance(preparation, Preparation):
        return np.zeros((3, preparation.height, preparation.width), np.uint8)
    merge = preparation.merge
    return Patches(np.zeros((merge**2, preparation.patch_bytes), np.uint8), ((merge, merge),))
