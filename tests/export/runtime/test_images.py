"""Rows with images of any number and size: read from a request, and laid out for a program."""

from collections.abc import Sequence

import numpy as np
import pytest

from export.runtime.contract import DOCUMENT, GRIDS, PATCHES, QUERY, TEXT, Array, InvalidTensorsError, Limits, read_rows
from export.runtime.inputs import Layout, Pack
from export.runtime.vision import Grid, Vision

TOKEN, BYTES = 9, 12
LIMITS = Limits(max_tokens=20, vocabulary_size=10, image_token=TOKEN, image_merge=2)
VISION = Vision(TOKEN, 2, BYTES, axial=True, mrope=True)
FIELDS = (TEXT, PATCHES, GRIDS)
PACKED = ("ids", "position", "row", "starts", "longest")


def patches(number: int, first: int = 0) -> Array:
    return np.arange(first, first + number, dtype=np.uint8)[:, None].repeat(BYTES, 1)


def tensors(texts: Sequence[Sequence[int]], grids: Sequence[Sequence[Grid]], room: int = 40) -> dict[str, Array]:
    longest = max(map(len, texts))
    most = max(1, *map(len, grids))
    return {
        "input_ids": np.array([[*ids, *[0] * (longest - len(ids))] for ids in texts]),
        "length": np.array([[len(ids)] for ids in texts], np.int32),
        "patches": np.stack([patches(room, 50 * i) for i in range(len(texts))]),
        "grids": np.array([[*of_row, *[(0, 0)] * (most - len(of_row))] for of_row in grids], np.int32),
    }


def test_images_are_read_without_their_padding() -> None:
    given = tensors([[1, 9, 9, 2, 9], [3], [9]], [[(2, 4), (2, 2)], [], [(2, 2)]])
    rows = read_rows(given, FIELDS, LIMITS)
    assert [ids.tolist() for ids, _, _ in rows] == [[1, 9, 9, 2, 9], [3], [9]]
    assert [own.shape for _, own, _ in rows] == [(12, BYTES), (0, BYTES), (4, BYTES)]
    assert rows[2][1][:, 0].tolist() == [100, 101, 102, 103]
    assert [grids.tolist() for _, _, grids in rows] == [[[2, 4], [2, 2]], [], [[2, 2]]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (tensors([[9, 9]], [[(2, 2)]]), "input_ids must have the id 9 for each merged patch of grids"),
        (tensors([[1]], [[(2, 2)]]), "input_ids must have the id 9"),
        (tensors([[9]], [[]]), "input_ids must have the id 9"),
        (tensors([[9, 1, 9]], [[(2, 4)]]), "those of an image side by side"),
        (tensors([[9]], [[(2, 3)]]), "grids must be multiples of 2"),
        (tensors([[9]], [[(2, 0)]]), "and 0 behind the last"),
        (tensors([[9]], [[(0, 0), (2, 2)]]), "and 0 behind the last"),
        (tensors([[9]], [[(-2, -2)]]), r"grids must be in 0\.\.1048576"),
        (tensors([[9]], [[(1 << 30, 1 << 30)]]), r"grids must be in 0\.\."),
        (tensors([[9]], [[(2, 2)]], room=3), r"patches of grids must be in 0\.\.3"),
    ],
)
def test_images_that_do_not_fit_are_refused(given: dict[str, Array], message: str) -> None:
    with pytest.raises(InvalidTensorsError, match=message):
        read_rows(given, FIELDS, LIMITS)


def test_images_of_a_pair_are_the_documents() -> None:
    given = tensors([[1, 9]], [[(2, 2)]])
    given |= {"document_ids": given.pop("input_ids"), "document_length": given.pop("length")}
    fields = (QUERY, DOCUMENT, PATCHES, GRIDS)
    query = {"query_ids": np.array([[5]]), "query_length": np.array([[1]], np.int32)}
    ((ids, *_),) = read_rows(given | query, fields, LIMITS)
    assert ids.tolist() == [5]
    with pytest.raises(InvalidTensorsError, match="query_ids must not have the id 9"):
        read_rows(given | query | {"query_ids": np.array([[9]])}, fields, LIMITS)


def test_row_of_an_image_alone_has_one() -> None:
    given = {
        name: value for name, value in tensors([[1], [1]], [[(2, 2)], [(2, 4)]]).items() if name in "patches grids"
    }
    rows = read_rows(given, (PATCHES, GRIDS), LIMITS)
    assert [len(own) for own, _ in rows] == [4, 8]
    given["grids"][1] = 0
    with pytest.raises(InvalidTensorsError, match="grids must have one image in each row"):
        read_rows(given, (PATCHES, GRIDS), LIMITS)


def written(pack: Pack, names: tuple[str, ...]) -> dict[str, Array]:
    layout = Layout(names, pack.sizes, more=pack.shapes)
    inputs = layout.views(np.full(layout.size, 77, np.int32))  # as a pack before it left it
    pack.write(inputs, pack.sizes)
    return inputs


def grids(*given: Grid) -> Array:
    return np.array(given, np.int32).reshape(-1, 2)


def test_images_stand_one_behind_the_other_with_an_empty_one_behind_them() -> None:
    rows = [
        (np.array([1, 9, 9, 2, 9]), patches(12), grids((2, 4), (2, 2))),
        (np.array([3, 4]), patches(0), grids()),
        (np.array([9, 5]), patches(4, 50), grids((2, 2))),
    ]
    pack = Pack([field.name for field in FIELDS], rows, vision=VISION)
    assert pack.has_images
    assert pack.patches == 16
    assert pack.sizes.longest_image == 8
    inputs = written(pack, (*PACKED, *VISION.inputs))
    assert inputs["patches"][:, 0].tolist() == [*range(12), 50, 51, 52, 53]
    assert inputs["image_starts"].tolist() == [0, 8, 12, 16, 16]
    assert inputs["places"].tolist() == [1, 2, 4, 7]
    assert inputs["patch_position"].shape == (16, 2)
    assert inputs["positions"].T.tolist() == [
        *[[0, 0, 0], [1, 1, 1], [1, 1, 2], [3, 3, 3], [4, 4, 4]],
        *[[0, 0, 0], [1, 1, 1]],
        *[[0, 0, 0], [1, 1, 1]],
        *[[0, 0, 0]] * 7,  # the dummy
    ]


def test_pack_without_images_has_none_of_their_inputs() -> None:
    pack = Pack([field.name for field in FIELDS], [(np.array([3, 4]), patches(0), grids())], vision=VISION)
    assert not pack.has_images
    assert pack.shapes == {}
    assert written(pack, PACKED)["ids"].tolist() == [3, 4, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("length", [1, 7, 8])
def test_single_merged_patch_gets_a_second_whose_token_is_the_dummys(length: int) -> None:
    row = (np.array([9, *[1] * (length - 1)]), patches(4, 20), grids((2, 2)))
    inputs = written(Pack([field.name for field in FIELDS], [row], vision=VISION), (*PACKED, *VISION.inputs))
    assert inputs["places"].tolist() == [0, len(inputs["ids"]) - 1]
    assert inputs["starts"][1] == length < len(inputs["ids"])
    assert inputs["image_starts"].tolist() == [0, 4, 8]
    assert inputs["patches"][:, 0].tolist() == [20, 21, 22, 23, 0, 0, 0, 0]


def test_images_of_pairs_stand_behind_the_queries() -> None:
    query = np.array([5, 6, 7])
    rows = [
        (query, np.array([1, 9]), patches(4), grids((2, 2))),
        (query, np.array([2, 9, 9]), patches(8), grids((4, 2))),
    ]
    pack = Pack(["query_ids", "document_ids", "patches", "grids"], rows, vision=VISION)
    inputs = written(pack, (*PACKED, "query", "longest_query", *VISION.inputs))
    assert inputs["places"].tolist() == [4, 6, 7]
    assert inputs["positions"][1].tolist() == [0, 1, 2, 0, 1, 0, 1, 2]


def test_images_alone_are_laid_out_without_texts() -> None:
    vision = Vision(-1, 1, BYTES, axial=True)
    rows = [(patches(6), grids((2, 3))), (patches(1), grids((1, 1)))]
    pack = Pack(["patches", "grids"], rows, vision=vision)
    inputs = written(pack, vision.inputs)
    assert (pack.number, pack.sizes.rows) == (2, 2)
    assert inputs["image_starts"].tolist() == [0, 6, 7, 7]
    assert inputs["patch_position"].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2], [0, 0]]
