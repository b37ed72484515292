from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.runtime.contract import Array
from export.runtime.inputs import Expansion, Layout, Pack, Sizes

PACKED = ("ids", "position", "row", "starts", "longest")
PAIRED = (*PACKED, "query", "longest_query", "visible", "keys")
lengths = st.lists(st.integers(1, 20), min_size=1, max_size=8)


def written(pack: Pack, names: tuple[str, ...], sizes: Sizes | None = None) -> dict[str, Array]:
    sizes = sizes or pack.sizes
    layout = Layout(names, sizes)
    inputs = layout.views(np.full(layout.size, 77, np.int32))  # as a pack before it left it
    pack.write(inputs, sizes)
    return inputs


def texts(lengths: list[int]) -> list[Array]:
    return [np.arange(100 * (i + 1), 100 * (i + 1) + length) for i, length in enumerate(lengths)]


def rows_in(inputs: dict[str, Array]) -> list[list[int]]:
    return [ids.tolist() for ids in np.split(inputs["ids"], inputs["starts"][1:-1])]


@given(lengths, st.integers(0, 5), st.integers(0, 3))
def test_rows_stand_one_behind_the_other_and_the_dummy_takes_the_rest(
    lengths: list[int], empty: int, eights: int
) -> None:
    rows = texts(lengths)
    pack = Pack(["input_ids"], [(ids,) for ids in rows])
    least = pack.sizes
    assert least.tokens % 8 == least.longest % 8 == 0
    assert least.longest >= max(lengths)
    sizes = replace(least, rows=least.rows + empty, tokens=least.tokens + 8 * eights)
    assert sizes.holds(least)
    inputs = written(pack, PACKED, sizes)
    assert inputs["starts"][0] == 0
    *found, dummy = rows_in(inputs)
    assert found == [ids.tolist() for ids in rows] + [[]] * empty
    assert dummy == [0] * (sizes.tokens - sum(lengths))
    places = [place for row in found for place in range(len(row))]
    assert inputs["position"].tolist() == places + [0] * len(dummy)  # a model need not have as many positions
    assert inputs["row"].tolist() == [i for i, row in enumerate((*found, dummy)) for _ in row]


def test_numbers_of_rows_stand_at_their_rows() -> None:
    rows = [(ids, np.array(n)) for ids, n in zip(texts([3, 2]), (2, 1), strict=True)]
    pack = Pack(["input_ids", "first_length"], rows)
    assert written(pack, (*PACKED, "first_length"))["first_length"].tolist() == [2, 1, 0]


def test_query_of_several_documents_is_computed_once() -> None:
    one, two, *documents = texts([2, 3, 4, 5, 6])
    rows = [(one, documents[0]), (two, documents[1]), (one.copy(), documents[2])]
    pack = Pack(["query_ids", "document_ids"], rows)
    assert pack.sizes == Sizes(tokens=24, rows=6, longest=8, pairs=3, longest_query=8)
    inputs = written(pack, PAIRED)
    assert rows_in(inputs)[:-1] == [ids.tolist() for ids in (one, two, *documents)]
    assert inputs["query"].tolist() == [0, 1, 0]


@given(lengths, st.integers(0, 2), st.integers(0, 3))
def test_documents_are_the_last_rows_before_the_dummy(lengths: list[int], queries: int, pairs: int) -> None:
    query, *documents = texts([3, *lengths])
    pack = Pack(["query_ids", "document_ids"], [(query, ids) for ids in documents])
    sizes = replace(pack.sizes, pairs=pack.sizes.pairs + pairs, rows=pack.sizes.rows + pairs + queries)
    assert sizes.holds(pack.sizes)
    inputs = written(pack, PAIRED, sizes)
    found = rows_in(inputs)
    first = sizes.rows - 1 - sizes.pairs
    assert found[:first] == [query.tolist()] + [[]] * queries
    assert found[first:-1] == [ids.tolist() for ids in documents] + [[]] * (sizes.pairs - len(documents))


@pytest.mark.parametrize("attended", [True, False])
def test_short_rows_are_filled_up(attended: bool) -> None:
    query, document = np.array([5, 6]), np.array([7, 8, 9])
    expansion = Expansion("query_ids", 4, 1, attended)
    inputs = written(Pack(["query_ids", "document_ids"], [(query, document)] * 2, expansion), PAIRED)
    assert rows_in(inputs)[:3] == [[5, 6, 1, 1], [7, 8, 9], [7, 8, 9]]
    assert inputs["visible"].tolist() == [4 if attended else 2, 3, 3, 6]
    unseen = () if attended else (2, 3)
    seen = [token for token in range(16) if token not in unseen]
    assert inputs["keys"].tolist() == seen + [0] * len(unseen)


def test_row_that_is_long_enough_stays() -> None:
    pack = Pack(["input_ids"], [(np.arange(5),)], Expansion("input_ids", 4, 1, attended=True))
    assert rows_in(written(pack, PACKED))[0] == [0, 1, 2, 3, 4]


def test_images_stand_in_whole_bytes() -> None:
    images = np.arange(3 * 3 * 3 * 3, dtype=np.uint8).reshape(3, 3, 3, 3)
    pack = Pack(["pixels"], [(image,) for image in images])
    sizes = replace(pack.sizes, rows=4)
    layout = Layout(["pixels"], sizes, (3, 3, 3))
    inputs = layout.views(np.full(layout.size, 77, np.int32))
    pack.write(inputs, sizes)
    assert np.array_equal(inputs["pixels"], np.concatenate([images, np.zeros_like(images[:1])]))


def test_single_image_gets_a_second() -> None:
    assert Pack(["pixels"], [(np.zeros((3, 2, 2), np.uint8),)]).sizes.rows == 2


def test_inputs_begin_at_multiples_of_16_bytes() -> None:
    layout = Layout((*PAIRED, "first_length"), Sizes(tokens=24, rows=6, longest=8, pairs=3, longest_query=8))
    assert all(begin % 4 == 0 for begin, _, _ in layout.sections.values())
    assert "longest" not in layout.sections


@pytest.mark.parametrize(
    ("larger", "holds"),
    [
        ({}, True),
        ({"tokens": 32}, True),
        ({"tokens": 16}, False),
        ({"rows": 5}, False),
        ({"longest": 0}, False),
        ({"longest_query": 0}, False),
        ({"pairs": 2}, False),
        ({"pairs": 4}, False),  # one query less
        ({"pairs": 4, "rows": 7}, True),
    ],
)
def test_bucket_holds_what_is_smaller_in_every_size(larger: dict[str, int], holds: bool) -> None:
    sizes = Sizes(tokens=24, rows=6, longest=8, pairs=3, longest_query=8)
    assert replace(sizes, **larger).holds(sizes) == holds
