"""The size that a model's image processor brings images to."""

from dataclasses import dataclass

from PIL.Image import Resampling


@dataclass(frozen=True, slots=True)
class Preparation:
    """How a model's image processor brings an image to one size."""

    height: int
    width: int
    """What the model sees: the middle of the resized image."""
    resize: int | tuple[int, int]
    """What the shorter side is resized to, or height and width, whatever shape that makes of an image."""
    resample: Resampling

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height before the middle is cut out, of an image of this size."""
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        short, long = sorted((width, height))
        other = int(self.resize * long / short)  # as transformers' get_resize_output_image_size rounds
        return (self.resize, other) if width <= height else (other, self.resize)
