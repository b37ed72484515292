"""What image processors of models make of images: pixels of one size, or patches of images of any size."""

from dataclasses import dataclass

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from PIL.Image import Resampling

Pixels = NDArray[np.uint8]
"""A prepared image: [3, H, W], RGB."""
Grid = tuple[int, int]
"""Height and width of an image in patches."""


@dataclass(frozen=True, slots=True)
class Patches:
    """An image as the patches that a vision tower of any image size takes."""

    pixels: NDArray[np.uint8]
    """[P, B], B = 3 * size * size: each patch channel first, RGB. Those of one grid are in blocks of merge x merge, the
    blocks and the patches in them row by row. Grids follow one another."""
    grids: tuple[Grid, ...]
    """One, or one for each tile and the last for all of the image."""
    tiles: Grid = (0, 0)
    """Rows and columns of tiles; (0, 0) if the image is not cut."""


class Preparation(Struct, frozen=True, tag="pixels", tag_field="kind"):
    """How a model's image processor brings images to one size."""

    height: int
    width: int
    """The size of the model's input: the centre crop of the resized image."""
    resize: int | tuple[int, int]
    """The length of the shorter side after resizing; or height and width, which ignores the aspect ratio."""
    resample: Resampling

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """The width and height of an image of this size after resizing and before cropping."""
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        short, long = sorted((width, height))
        other = int(self.resize * long / short)  # rounds as transformers' get_resize_output_image_size
        return (self.resize, other) if width <= height else (other, self.resize)
