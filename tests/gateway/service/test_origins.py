import numpy as np

from gateway.catalog import ImageReading
from gateway.images.processors import Layout, Smart
from gateway.service.origins import Origin, PatchGrid

READING = ImageReading(5, Smart(patch=4, merge=2, min_pixels=64, max_pixels=4096), 4)


def test_tiles_are_parts_of_the_image_and_the_last_grid_is_all_of_it() -> None:
    """Two rows of three tiles of 1 x 2 merged patches, a mark before each tile, and a small copy of the image."""
    image = Layout((), ((2, 4),) * 7, (2, 3))
    ids = [1, *[9, 5, 5] * 7]
    (grids,) = Origin(ids, np.arange(len(ids)), [image], READING).grids()
    assert [grid.start for grid in grids] == [2, 5, 8, 11, 14, 17, 20]
    assert {(grid.rows, grid.columns) for grid in grids} == {(1, 2)}
    boxes = [grid.box for grid in grids]
    assert boxes[1::4] == [(1 / 3, 0, 2 / 3, 1 / 2), (2 / 3, 1 / 2, 1, 1)]
    assert boxes[6] == (0, 0, 1, 1)


def test_vectors_are_counted_without_tokens_that_a_model_leaves_out() -> None:
    places = np.array([1, 3, 4, 5, 6, 8])  # neither the first token nor the mark, and of the second image no patch
    origin = Origin([1, 7, 9, *[5] * 4, 9, 7, 5], places, [Layout((), ((4, 4),)), Layout((), ((2, 2),))], READING)
    assert origin.token_ids() == [7, 5, 5, 5, 5, 7]
    assert origin.grids() == [[PatchGrid(1, 2, 2, (0, 0, 1, 1))], []]


def test_expansion_of_a_query_has_no_ids() -> None:
    origin = Origin([1, 7, 2], np.arange(5))
    assert origin.token_ids() == [1, 7, 2, None, None]
    assert origin.grids() == []
