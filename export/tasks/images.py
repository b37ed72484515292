"""Images of any size as a model's own processor makes patches of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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

SMART = ("Qwen2VLImageProcessor", "Qwen2VLImageProcessorPil")
"""The image processors that resize to multiples of a merged patch, within limits of pixels (smart_resize)."""

FIXED = ("SiglipImageProcessor", "SiglipImageProcessorPil")
"""Those that resize to one size, whatever the shape."""


@dataclass(frozen=True, slots=True)
class ImageReader:
    """An image processor of transformers, taken apart: the gateway resizes, and the graph normalizes."""

    processor: Model
    """It resizes by `smart_resize`."""

    @classmethod
    def of(cls, spec: ModelSpec, processor: Model, config: Model) -> "ImageReader":
        """The reader of a processor, for the vision tower of a config.

        Raises:
            SourceError: images become something else than resized patches.
        """
        kind = type(processor).__name__
        if kind not in (*SMART, *FIXED):
            raise SourceError(
                f"[{spec.name}] source: its image processor, {kind}, is not one of {', '.join((*SMART, *FIXED))}"
            )
        switched = [
            name
            for name in ("do_resize", "do_rescale", "do_normalize", *(("do_convert_rgb",) if kind in SMART else ()))
            if not getattr(processor, name)
        ]
        if switched:
            raise SourceError(f"[{spec.name}] source: its image processor has {switched[0]} = false")
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

    def features(self, patches: Picture, grids: Sequence[Grid]) -> dict[str, Tensor]:
        """What the processor gives the model for images that were resized already: `pixel_values` and their grids.

        Args:
            patches: of all images one behind the other.
            grids: of each.
        """
        ends = np.cumsum([height * width for height, width in grids])
        parts = np.split(patches, ends[:-1])
        images = [self._image(part, grid) for part, grid in zip(parts, grids, strict=True)]
        return dict(self.processor(images=images, do_resize=False, return_tensors="pt"))

    def _image(self, patches: Picture, grid: Grid) -> Image.Image:
        (height, width), merge, size = grid, self.merge, self.size
        parts = patches.reshape(height // merge, width // merge, merge, merge, 3, size, size)
        pixels = parts.transpose(0, 2, 5, 1, 3, 6, 4).reshape(height * size, width * size, 3)
        return Image.fromarray(np.ascontiguousarray(pixels))


@dataclass(frozen=True, slots=True)
class FixedReader(ImageReader):
    """An image processor that resizes to one size, such as PaliGemma's."""

    side: int
    """Pixels on a side of a patch."""

    @property
    def merge(self) -> int:
        """Patches on a side of a merged one."""
        return 1

    @property
    def size(self) -> int:
        """Pixels on a side of a patch."""
        return self.side

    @property
    def parameter(self) -> Mapping[str, Any]:
        """The parameter `image_processor` of an entry."""
        return {
            "kind": "fixed",
            "patch": self.side,
            "merge": 1,
            **{edge: self.processor.size[edge] for edge in ("height", "width")},
            "resample": Image.Resampling(self.processor.resample).name.lower(),
        }

    def read(self, image: Image.Image) -> tuple[Picture, Grid]:
        """The patches of an image, resized and not normalized, and its grid."""
        made = self.processor(images=[image], do_rescale=False, do_normalize=False, return_tensors="np")
        pixels, size = made["pixel_values"][0], self.side  # [3, H, W]
        height, width = pixels.shape[1] // size, pixels.shape[2] // size
        patches = pixels.reshape(3, height, size, width, size).transpose(1, 3, 0, 2, 4)
        return np.ascontiguousarray(patches.reshape(height * width, -1), np.uint8), (height, width)
