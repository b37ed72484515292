"""Which token, and which patch of an image, each token vector of an item is of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from gateway.catalog import ImageReading
from gateway.images.preparation import Patches
from gateway.images.processors import Layout

Box = tuple[float, float, float, float]
"""Left, top, right and bottom of a part of an image, as fractions of its width and height."""
WHOLE: Box = (0, 0, 1, 1)


class PatchGrid(Struct, frozen=True):
    """The vectors of an image's merged patches, or of those of one of its tiles."""

    start: int
    """The index of the first vector. The others follow, row by row."""
    rows: int
    columns: int
    box: Box
    """The part of the image that the grid covers: left, top, right and bottom as fractions of its width and height."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What the token vectors of an item are of."""

    ids: Sequence[int]
    """The token ids of its row."""
    places: NDArray[np.intp]
    """The position in the row of each vector. Those behind the ids are tokens by which the model expands a query."""
    images: Sequence[Layout] = ()
    reading: ImageReading | None = None
    """How the model reads images, if there are any."""

    def token_ids(self) -> list[int | None]:
        """The token id of each vector; None for the tokens by which the model expands a query."""
        return [self.ids[place] if place < len(self.ids) else None for place in self.places.tolist()]

    def grids(self) -> list[list[PatchGrid]]:
        """The grids of each image. Those without a vector for each of their patches are left out."""
        if self.reading is None:
            return []
        patches = np.flatnonzero(np.asarray(self.ids) == self.reading.token)
        merge, found, done = self.reading.processor.merge, [], 0
        for image in self.images:
            of_image = []
            for (height, width), box in zip(image.grids, _boxes(image), strict=True):
                rows, columns = height // merge, width // merge
                own, done = patches[done : done + rows * columns], done + rows * columns
                start = int(np.searchsorted(self.places, own[0]))
                if np.array_equal(self.places[start : start + len(own)], own):
                    of_image.append(PatchGrid(start, rows, columns, box))
            found.append(of_image)
        return found


def layout(image: Patches) -> Layout:
    """The grids of an image, without its pixels."""
    return Layout((), image.grids, image.tiles)


def _boxes(image: Layout) -> list[Box]:
    """The part of an image that each of its grids covers: tiles row by row, then all of it."""
    rows, columns = image.tiles
    tiles = [
        (column / columns, row / rows, (column + 1) / columns, (row + 1) / rows)
        for row in range(rows)
        for column in range(columns)
    ]
    return [*tiles, WHOLE]
