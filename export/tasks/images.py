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

Picture = NDArray[np.uint8]
"""uint8 [P, 3 * size * size], the patches of an image, in blocks of merge x merge."""
Grid = tuple[int, int]
"""Its height and width in patches."""

PATCHES = "{patches}"
"""Stands in templates for the tokens of merged patches."""

SMART = ("Qwen2VLImageProcessor", "Qwen2VLImageProcessorPil")
"""The image processors that resize to multiples of a merged patch, within limits of pixels (smart_resize)."""

FIXED = ("SiglipImageProcessor", "SiglipImageProcessorPil")
"""Those that resize to one size, whatever the shape."""
TILES = ("Idefics3ImageProcessor", "Idefics3ImageProcessorPil")
"""Those that cut square tiles, and put a small copy of the whole image behind them."""
BUDGET = ("Gemma4ImageProcessor", "Gemma4ImageProcessorPil")
"""Those that resize to the largest size of the same shape within a number of patches."""
NEEDED = ("do_resize", "do_rescale", "do_convert_rgb")
"""What has to be switched on."""
OPTIONAL = frozenset(("do_convert_rgb", kind) for kind in FIXED)
"""But this, which is left out where images are RGB."""


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
    """It resizes by `smart_resize`."""

    marks: ClassVar[bool] = True
    """Whether the model is told which tokens are those of images."""

    @classmethod
    def of(cls, spec: ModelSpec, processor: Model, config: Model, merge: int = 1) -> "ImageReader":
        """The reader of a processor.

        Args:
            spec: the model's table.
            processor: its image processor.
            config: of its vision tower.
            merge: patches on a side of a merged one, where the processor does not know.

        Raises:
            SourceError: images become something else than resized patches.
        """
        kind = type(processor).__name__
        if kind not in (*SMART, *FIXED, *TILES, *BUDGET):
            known = ", ".join((*SMART, *FIXED, *TILES, *BUDGET))
            raise SourceError(f"[{spec.name}] source: its image processor, {kind}, is not one of {known}")
        needed = NEEDED if kind in BUDGET else (*NEEDED, "do_normalize")
        switched = [name for name in needed if not getattr(processor, name) and (name, kind) not in OPTIONAL]
        if switched:
            raise SourceError(f"[{spec.name}] source: its image processor has {switched[0]} = false")
        if kind in TILES:
            if processor.max_image_size["longest_edge"] != config.image_size:
                raise SourceError(f"[{spec.name}] source: its tiles are not of the model's {config.image_size} pixels")
            return TileReader(processor, config.patch_size, merge)
        if kind in BUDGET:
            return BudgetReader(processor)
        return cls(processor) if kind in SMART else FixedReader(processor, config.patch_size)

    @property
    def merge(self) -> int:
        """Patches on a side of a merged one."""
        merge: int = self.processor.merge_size
        return merge

    @property
    def size(self) -> int:
        """Pixels on a side of a patch."""
        size: int = self.processor.patch_size
        return size

    @property
    def parameter(self) -> Mapping[str, Any]:
        """The parameter `image_processor` of an entry."""
        size = self.processor.size
        return {
            "kind": "smart",
            "patch": self.processor.patch_size,
            "merge": self.merge,
            "min_pixels": size["shortest_edge"],
            "max_pixels": size["longest_edge"],
            "resample": Image.Resampling(self.processor.resample).name.lower(),
        }

    def read(self, image: Image.Image) -> tuple[Picture, Grid]:
        """The patches of an image, resized and not normalized, and its grid."""
        made = self.processor(images=[image], do_rescale=False, do_normalize=False, return_tensors="np")
        _, height, width = made["image_grid_thw"][0].tolist()
        patches = made["pixel_values"].reshape(height * width, 3, -1, self.processor.patch_size**2)
        return patches[:, :, 0].reshape(height * width, -1).astype(np.uint8), (height, width)  # all frames are equal

    def see(self, image: Image.Image, patch: str) -> Seen:
        """Read an image for a text in which a token stands for each merged patch."""
        patches, grid = self.read(image)
        return Seen(patches, [grid], patch * self.merged(grid))

    def merged(self, grid: Grid) -> int:
        """The merged patches of a grid."""
        return grid[0] * grid[1] // self.merge**2

    def features(self, patches: Picture, grids: Sequence[Grid]) -> dict[str, Tensor]:
        """What the processor gives the model for images that were resized already: `pixel_values` and their grids.

        Args:
            patches: of all images one behind the other.
            grids: of each.
        """
        ends = np.cumsum([height * width for height, width in grids])
        parts = np.split(patches, ends[:-1])
        images = [self._image(part, grid) for part, grid in zip(parts, grids, strict=True)]
        return self._given(images)

    def _given(self, images: list[Image.Image]) -> dict[str, Tensor]:
        """What the processor gives the model for images of the right sizes."""
        return dict(self.processor(images=images, do_resize=False, return_tensors="pt"))

    def _cut(self, pixels: Picture) -> tuple[Picture, Grid]:
        """Patches of pixels, uint8 [H, W, 3], and their grid."""
        merge, size = self.merge, self.size
        height, width = pixels.shape[0] // size, pixels.shape[1] // size
        parts = pixels.reshape(height // merge, merge, size, width // merge, merge, size, 3)
        return parts.transpose(0, 3, 1, 4, 6, 2, 5).reshape(height * width, -1), (height, width)

    def _image(self, patches: Picture, grid: Grid) -> Image.Image:
        (height, width), merge, size = grid, self.merge, self.size
        parts = patches.reshape(height // merge, width // merge, merge, merge, 3, size, size)
        pixels = parts.transpose(0, 2, 5, 1, 3, 6, 4).reshape(height * size, width * size, 3)
        return Image.fromarray(np.ascontiguousarray(pixels))


@dataclass(frozen=True, slots=True)
class SquareReader(ImageReader):
    """An image processor that does not know of patches."""

    side: int
    """Pixels on a side of a patch."""
    block: int = 1
    """Patches on a side of a merged one."""

    @property
    def merge(self) -> int:
        """Patches on a side of a merged one."""
        return self.block

    @property
    def size(self) -> int:
        """Pixels on a side of a patch."""
        return self.side


@dataclass(frozen=True, slots=True)
class FixedReader(SquareReader):
    """An image processor that resizes to one size, such as PaliGemma's."""

    @property
    def parameter(self) -> Mapping[str, Any]:
        """The parameter `image_processor` of an entry."""
        return {
            "kind": "fixed",
            "patch": self.side,
            "merge": self.block,
            **{edge: self.processor.size[edge] for edge in ("height", "width")},
            "resample": Image.Resampling(self.processor.resample).name.lower(),
        }

    def read(self, image: Image.Image) -> tuple[Picture, Grid]:
        """The patches of an image, resized and not normalized, and its grid."""
        made = self.processor(images=[image], do_rescale=False, do_normalize=False, return_tensors="np")
        return self._cut(made["pixel_values"][0].transpose(1, 2, 0).astype(np.uint8))


@dataclass(frozen=True, slots=True)
class TileReader(SquareReader):
    """An image processor that cuts tiles, Idefics3's."""

    marks: ClassVar[bool] = False
    TILE: ClassVar[str] = "<fake_token_around_image><row_{row}_col_{column}>" + PATCHES
    ROW_END: ClassVar[str] = "\n"
    SINGLE: ClassVar[str] = "<fake_token_around_image><global-img>" + PATCHES + "<fake_token_around_image>"
    WHOLE: ClassVar[str] = ROW_END + SINGLE

    @property
    def parameter(self) -> Mapping[str, Any]:
        """The parameter `image_processor` of an entry."""
        return {
            "kind": "tiles",
            "patch": self.side,
            "merge": self.block,
            "tile": self.processor.max_image_size["longest_edge"],
            "longest_edge": self.processor.size["longest_edge"],
            "split": bool(self.processor.do_image_splitting),
            "resample": Image.Resampling(self.processor.resample).name.lower(),
            "tile_text": self.TILE,
            "row_end": self.ROW_END,
            "whole_text": self.WHOLE,
            "single_text": self.SINGLE,
        }

    def see(self, image: Image.Image, patch: str) -> Seen:
        """Read an image for a text in which a token stands for each merged patch of a tile."""
        made = self.processor(
            images=[[image]], do_rescale=False, do_normalize=False, return_row_col_info=True, return_tensors="np"
        )
        tiles = [self._cut(tile.transpose(1, 2, 0).astype(np.uint8)) for tile in made["pixel_values"][0]]
        rows, columns = made["rows"][0][0], made["cols"][0][0]
        lines = (
            "".join(
                self.TILE.replace("{row}", str(row + 1)).replace("{column}", str(column + 1))
                for column in range(columns)
            )
            for row in range(rows)
        )
        text = "".join(line + self.ROW_END for line in lines) + (self.WHOLE if rows else self.SINGLE)
        grids = [grid for _, grid in tiles]
        placed = text.replace(PATCHES, patch * self.merged(grids[0]))
        return Seen(np.concatenate([patches for patches, _ in tiles]), grids, placed)

    def _given(self, images: list[Image.Image]) -> dict[str, Tensor]:
        return dict(self.processor(images=[images], do_resize=False, do_image_splitting=False, return_tensors="pt"))


@dataclass(frozen=True, slots=True)
class BudgetReader(ImageReader):
    """An image processor with a budget of patches, Gemma 4's."""

    marks: ClassVar[bool] = False

    @property
    def merge(self) -> int:
        """Patches on a side of a merged one."""
        merge: int = self.processor.pooling_kernel_size
        return merge

    @property
    def parameter(self) -> Mapping[str, Any]:
        """The parameter `image_processor` of an entry."""
        return {
            "kind": "budget",
            "patch": self.size,
            "merge": self.merge,
            "max_patches": self.processor.max_soft_tokens * self.merge**2,
            "resample": Image.Resampling(self.processor.resample).name.lower(),
        }

    def read(self, image: Image.Image) -> tuple[Picture, Grid]:
        """The patches of an image, resized and not normalized, and its grid."""
        made = self.processor(images=[image], do_rescale=False, do_normalize=False, return_tensors="np")
        width, height = (made["image_position_ids"][0].max(0) + 1).tolist()
        parts = made["pixel_values"][0][: height * width].reshape(height, width, self.size, self.size, 3)
        pixels = parts.transpose(0, 2, 1, 3, 4).reshape(height * self.size, width * self.size, 3)
        return self._cut(pixels.astype(np.uint8))

    def _given(self, images: list[Image.Image]) -> dict[str, Tensor]:
        made = dict(self.processor(images=images, do_resize=False, return_tensors="pt"))
        del made["num_soft_tokens_per_image"]
        return made
