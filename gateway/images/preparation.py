"""The resizing and cropping of a model's image processor."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Resampling

Pixels = NDArray[np.uint8]
"""A prepared image: [3, H, W], RGB."""


@dataclass(frozen=True, slots=True)
class Preparation:
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
