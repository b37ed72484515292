"""What a host makes of the grids of images, so that no size in a torch program depends on a value.

An image is a grid of H x W patches. They stand one behind the other in blocks of merge x merge, the blocks row by row.
A block is a merged patch, which takes the place of one token of the text. Entries of the torch backend hold a copy of
this file, which needs numpy only. The numbers are those of transformers/vision_utils.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Ints = NDArray[np.int32]
Floats = NDArray[np.float32]
Grid = tuple[int, int]
"""Height and width of an image, in patches."""

ALIGNMENT = 8
"""The longest image is a multiple of it."""
CUBIC = -0.75
"""The parameter of Keys' cubic kernel in PyTorch (aten/src/ATen/native/UpSample.h)."""
TYPES: Mapping[str, type[np.generic]] = {
    "patches": np.uint8,
    "tap_weights": np.float32,
    "row_weights": np.float32,
    "column_weights": np.float32,
}
"""The types of inputs that are not of int32."""
MADE: Mapping[str, tuple[str, ...]] = {
    "patch_position": ("P", "2"),
    "taps": ("P", "n"),
    "tap_weights": ("P", "n"),
    "row_weights": ("P", "n"),
    "column_weights": ("P", "n"),
    "window_index": ("V",),
    "window_starts": ("W + 2",),
}
"""All that `Vision.make` may make, and its shape: P patches, V merged ones, W windows."""


@dataclass(frozen=True, slots=True)
class Table:
    """A square table of learned positions, which is interpolated to the grid of each image."""

    side: int
    mode: str
    """"bilinear" or "bicubic"."""
    align_corners: bool
    """Whether the first and the last patch take the first and the last position, as in PyTorch's `interpolate`."""


@dataclass(frozen=True, slots=True)
class Vision:
    """The images of a program, in program.json."""

    token: int
    """The id of a merged patch in the text; -1 without text."""
    merge: int
    """Patches on a side of a merged one."""
    patch_bytes: int
    """Of one patch: 3 x size x size."""
    axial: bool = False
    """Whether it takes the row and column of each patch: "patch_position" [P, 2]."""
    table: Table | None = None
    """Its table of positions, if it takes "taps" and "tap_weights", [P, n]."""
    resized: int = 0
    """Positions on a side of a square table that is resized to images with antialiasing, if it takes "row_weights" and
    "column_weights", [P, side]."""
    window: int = 0
    """Merged patches on a side of a window, if it takes "window_index" [V] and "window_starts" [W + 1]."""
    mrope: bool = False
    """Whether tokens of the text have three positions (M-RoPE, arXiv 2409.12191): "positions" [3, T]."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs of a program that images have, and texts alone have not."""
        return (
            "patches",
            *(("places",) if self.token >= 0 else ()),
            "image_starts",
            "longest_image",
            *self.made,
            *(("positions",) if self.mrope else ()),
        )

    @property
    def made(self) -> tuple[str, ...]:
        """Those that `make` makes."""
        return (
            *(("patch_position",) if self.axial else ()),
            *(("taps", "tap_weights") if self.table is not None else ()),
            *(("row_weights", "column_weights") if self.resized else ()),
            *(("window_index", "window_starts") if self.window else ()),
        )

    def make(self, grids: Sequence[Grid]) -> dict[str, Array]:
        """What the tower takes of images that stand one behind the other, by the names of `made`."""
        found: dict[str, Array] = {}
        if self.axial:
            found["patch_position"] = patch_positions(grids, self.merge)
        if self.table is not None:
            found["taps"], found["tap_weights"] = taps(grids, self.merge, self.table)
        if self.resized:
            found["row_weights"], found["column_weights"] = resized(grids, self.merge, self.resized)
        if self.window:
            found["window_index"], found["window_starts"] = windows(grids, self.merge, self.window)
        return found

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> "Vision":
        """Take it out of program.json."""
        table = content.get("table")
        return cls(**{**content, "table": Table(**table) if table else None})


def image_starts(grids: Sequence[Grid], last: Sequence[Grid] = ()) -> Ints:
    """Where each image begins among the patches, and one more behind them, which may be empty: int32 [I + 2]."""
    return np.cumsum([0, *(height * width for height, width in (*grids, *(last or [(0, 0)])))], dtype=np.int32)


def longest_image(grids: Sequence[Grid]) -> int:
    """At least the patches of the largest image."""
    longest = max((height * width for height, width in grids), default=1)
    return -(-longest // ALIGNMENT) * ALIGNMENT


def patch_positions(grids: Sequence[Grid], merge: int) -> Ints:
    """The row and column of each patch, int32 [P, 2]."""
    return _joined([_cells(grid, merge) for grid in grids], (0, 2))


def taps(grids: Sequence[Grid], merge: int, table: Table) -> tuple[Ints, Floats]:
    """The entries of a table of positions that each patch is interpolated of, int32 [P, n], and their weights."""
    entries, weights = [], []
    for grid in grids:
        cells = _cells(grid, merge)
        rows, columns = (_axis(cells[:, axis], grid[axis], table) for axis in (0, 1))
        entries.append((rows[0][:, :, None] * table.side + columns[0][:, None]).reshape(len(cells), -1))
        weights.append((rows[1][:, :, None] * columns[1][:, None]).reshape(len(cells), -1))
    count = (2 if table.mode == "bilinear" else 4) ** 2
    none = np.zeros((0, count), np.float32)
    return _joined(entries, (0, count)), np.concatenate([none, *weights])


def resized(grids: Sequence[Grid], merge: int, side: int) -> tuple[Floats, Floats]:
    """What the rows of a table of positions weigh for each patch, float32 [P, side], and what its columns do.

    The weights of PyTorch's `interpolate`, bilinear and with antialiasing, which smooths where there are fewer patches
    than positions. Resizing is linear, so a position weighs what its row and its column do together.
    """
    rows, columns = [np.zeros((0, side), np.float32)], [np.zeros((0, side), np.float32)]
    for grid in grids:
        cells = _cells(grid, merge)
        rows.append(_antialiased(grid[0], side)[cells[:, 0]])
        columns.append(_antialiased(grid[1], side)[cells[:, 1]])
    return np.concatenate(rows), np.concatenate(columns)


def windows(grids: Sequence[Grid], merge: int, side: int) -> tuple[Ints, Ints]:
    """The order of merged patches by windows, int32 [V], and where each window begins among the patches.

    Windows have `side` merged patches on a side, but at the right and lower edges of images. An empty one stands behind
    them: int32 [W + 2].
    """
    order, sizes, before = [], [0], 0
    for height, width in grids:
        rows, columns = height // merge, width // merge
        index = before + np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
        before += rows * columns
        for top in range(0, rows, side):
            for left in range(0, columns, side):
                window = index[top : top + side, left : left + side].ravel()
                order.append(window)
                sizes.append(len(window) * merge**2)
    return _joined(order, (0,)), np.cumsum([*sizes, 0], dtype=np.int32)


def rope_positions(ids: Array, token: int, grids: Sequence[Grid], merge: int) -> Ints:
    """The temporal, vertical and horizontal position of each token of a row, int32 [3, L].

    Text counts on in all three. The tokens of an image have their row and column, counted from where the text was, and
    behind them the text goes on at the larger of its sides (M-RoPE, Wang et al. 2024, arXiv 2409.12191, section 2.1).

    Args:
        ids: of the row; the tokens of each image are side by side.
        token: stands for a merged patch.
        grids: of the row's images.
        merge: patches on a side of a merged one.
    """
    positions = np.empty((3, len(ids)), np.int32)
    places = np.flatnonzero(ids == token)
    done = used = position = 0
    for height, width in grids:
        rows, columns = height // merge, width // merge
        first = int(places[used]) if used < len(places) else len(ids)
        end = first + rows * columns
        positions[:, done:first] = np.arange(position, position + first - done)
        position += first - done
        cells = np.indices((rows, columns), np.int32).reshape(2, -1)
        positions[0, first:end] = position
        positions[1:, first:end] = position + cells
        position += max(rows, columns)
        done, used = end, used + rows * columns
    positions[:, done:] = np.arange(position, position + len(ids) - done)
    return positions


def _cells(grid: Grid, merge: int) -> Ints:
    """The row and column of each patch of an image, int32 [H x W, 2]."""
    height, width = grid
    cells = np.indices(grid, np.int32).reshape(2, height // merge, merge, width // merge, merge)
    return cells.transpose(1, 3, 2, 4, 0).reshape(-1, 2)


def _axis(index: Ints, size: int, table: Table) -> tuple[Ints, Floats]:
    """The positions that patches on an axis are interpolated of, int32 [P, n], and their weights."""
    place = index.astype(np.float32)
    side, number = np.float32(table.side), np.float32(size)
    if table.align_corners:
        place = place * (side - 1) / max(number - 1, np.float32(1))
    else:
        place = (place + np.float32(0.5)) * side / number - np.float32(0.5)
    floor = np.floor(place)
    around = np.arange(0, 2) if table.mode == "bilinear" else np.arange(-1, 3)
    entries = (floor.astype(np.int32)[:, None] + around.astype(np.int32)).clip(0, table.side - 1)
    distance = np.abs(place[:, None] - floor[:, None] - around.astype(np.float32))
    if table.mode == "bilinear":
        return entries, (1 - distance).clip(0)
    a = np.float32(CUBIC)
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return entries, np.where(distance <= 1, near, far)


def _antialiased(number: int, side: int) -> Floats:
    """What positions on an axis weigh for each patch on it, float32 [number, side]."""
    scale = np.float32(side) / np.float32(number)
    center = (np.arange(number, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    distance = np.abs(np.arange(side, dtype=np.float32) - center[:, None])
    weights = (1 - distance / max(scale, np.float32(1))).clip(0)
    normalized: Floats = weights / weights.sum(1, keepdims=True)
    return normalized


def _joined(parts: Sequence[Ints], shape: tuple[int, ...]) -> Ints:
    """Parts one behind the other, of a shape where there are none."""
    return np.concatenate([np.zeros(shape, np.int32), *parts], dtype=np.int32)
