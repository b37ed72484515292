import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export.runtime.contract import FIELDS, IMAGE_TOKENS, Array, Field, InvalidTensorsError, Limits, Row, read_rows
from export.runtime.engine import NAMES, Engine
from export.runtime.packs import CELLS_PER_TOKEN, PACK_TOKENS, Pace, Paces
from export.runtime.streams import hint
from export.tower import Tower
from tests.export.outputs import assert_close

X86 = ("BF16", "WINOGRAD", "FP32", "INT8", "BIN", "EXPORT_IMPORT")
"""What OpenVINO says of a processor: ov::device::capabilities. This is one with AVX-512."""
ARM = ("FP16", "WINOGRAD", "FP32", "INT8", "BIN", "EXPORT_IMPORT")


@pytest.mark.parametrize(
    ("precision", "capabilities", "expected"),
    [
        (None, X86, "bf16"),
        (None, ("FP16", *X86), "bf16"),
        (None, ARM, "f32"),
        ("bf16", ARM, "f32"),
        ("bf16", X86, "bf16"),
        ("f32", X86, "f32"),
        ("f32", ARM, "f32"),
        (None, ("FP32",), "f32"),
    ],
)
def test_no_processor_computes_in_a_precision_that_is_not_verified(
    precision: str | None, capabilities: Sequence[str], expected: str
) -> None:
    assert hint(precision, capabilities) == expected
    assert expected in NAMES


TEXT, FIRST_LENGTH, PROMPT_LENGTH, QUERY, DOCUMENT, *_, PIXELS = FIELDS
LIMITS = Limits(max_tokens=3, vocabulary_size=100)
TOGETHER = Paces(on_one=Pace(1, 1), on_all=Pace(0, 0))
SIDE_BY_SIDE = Paces(on_one=Pace(0, 0), on_all=Pace(1, 1))


def column(values: list[int]) -> NDArray[np.int32]:
    return np.array(values, np.int32)[:, None]


def texts(ids: list[list[int]], lengths: list[int], name: str = "") -> dict[str, Array]:
    names = (f"{name}_ids", f"{name}_length") if name else ("input_ids", "length")
    return dict(zip(names, (np.array(ids, np.int64), column(lengths)), strict=True))


def test_rows_are_read_without_their_padding() -> None:
    rows = read_rows(texts([[5, 6, 7], [8, 0, 0]], [3, 1]), [TEXT], LIMITS)
    assert [ids.tolist() for (ids,) in rows] == [[5, 6, 7], [8]]


def test_padding_may_hold_anything() -> None:
    ((ids,),) = read_rows(texts([[5, -1, 999]], [1]), [TEXT], LIMITS)
    assert ids.tolist() == [5]


def test_row_of_several_fields_holds_a_value_of_each() -> None:
    pair = texts([[5, 6, 7], [8, 9, 0]], [3, 2]) | {"first_length": column([1, 2])}
    assert [(ids.tolist(), int(first)) for ids, first in read_rows(pair, [TEXT, FIRST_LENGTH], LIMITS)] == [
        ([5, 6, 7], 1),
        ([8, 9], 2),
    ]
    two = texts([[5], [6]], [1, 1], "query") | texts([[7, 8], [9, 0]], [2, 1], "document")
    assert [[ids.tolist() for ids in row] for row in read_rows(two, [QUERY, DOCUMENT], LIMITS)] == [
        [[5], [7, 8]],
        [[6], [9]],
    ]


def test_images_are_read_as_they_are() -> None:
    images = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    rows = read_rows({"pixels": images}, [PIXELS], Limits())
    assert np.array_equal(np.stack([image for (image,) in rows]), images)


@pytest.mark.parametrize(
    ("tensors", "fields", "message"),
    [
        (texts([[5, 6]], [0]), [TEXT], r"length must be in 1\.\.2$"),
        (texts([[5, 6]], [-1]), [TEXT], r"length must be in 1\.\.2$"),
        (texts([[5, 6]], [3]), [TEXT], r"length must be in 1\.\.2$"),
        (texts([[5, 6, 7, 8]], [4]), [TEXT], r"length must be in 1\.\.3$"),
        (texts([[5, 6], [5, 6]], [1, 0]), [TEXT], r"length must be in 1\.\.2$"),
        (texts([[5, 100]], [2]), [TEXT], r"input_ids must be in 0\.\.99$"),
        (texts([[-1, 5]], [2]), [TEXT], r"input_ids must be in 0\.\.99$"),
        (texts([[5], [6]], [1]), [TEXT], "must have the same number of rows, not .*'input_ids': 2, 'length': 1"),
        (
            texts([[5]], [1], "query") | texts([[5], [6]], [1, 1], "document"),
            [QUERY, DOCUMENT],
            "must have the same number of rows",
        ),
        (
            texts([[5]], [1], "query") | texts([[5, 100]], [2], "document"),
            [QUERY, DOCUMENT],
            r"document_ids must be in 0\.\.99$",
        ),
        (
            texts([[5, 6]], [2]) | {"first_length": column([0])},
            [TEXT, FIRST_LENGTH],
            "first_length must be at least 1$",
        ),
        (
            texts([[5, 6, 0]], [2]) | {"first_length": column([3])},
            [TEXT, FIRST_LENGTH],
            "first_length must not exceed length",
        ),
        (
            texts([[5], [6]], [1, 1]) | {"first_length": column([1])},
            [TEXT, FIRST_LENGTH],
            "must have the same number of rows",
        ),
    ],
)
def test_malformed_tensors_are_refused(tensors: dict[str, Array], fields: list[Field], message: str) -> None:
    with pytest.raises(InvalidTensorsError, match=message):
        read_rows(tensors, fields, LIMITS)


def fed(field: Field, values: list[Array]) -> dict[str, tuple[str, list[object]]]:
    return {name: (array.dtype.name, array.tolist()) for name, array in field.feed(values).items()}


def test_rows_are_fed_one_behind_the_other_without_padding() -> None:
    values: list[Array] = [np.array([5, 6, 7]), np.array([8])]
    assert fed(DOCUMENT, values) == {
        "document_ids": ("int64", [5, 6, 7, 8]),
        "document_stride": ("int32", [3, 1]),
        "document_length": ("int32", [[3], [1]]),
    }


def test_row_of_no_tokens_is_stored_as_one_that_does_not_count() -> None:
    assert fed(QUERY, [np.zeros(0, np.int64), np.array([5, 6])]) == {
        "query_ids": ("int64", [0, 5, 6]),
        "query_stride": ("int32", [1, 2]),
        "query_length": ("int32", [[0], [2]]),
    }


def test_only_queries_may_have_no_tokens() -> None:
    pair = texts([[5]], [0], "query") | texts([[7, 8]], [2], "document")
    ((query, document),) = read_rows(pair, [QUERY, DOCUMENT], LIMITS)
    assert (query.tolist(), document.tolist()) == ([], [7, 8])
    with pytest.raises(InvalidTensorsError, match=r"document_length must be in 1\.\.2$"):
        read_rows(texts([[5]], [1], "query") | texts([[7, 8]], [0], "document"), [QUERY, DOCUMENT], LIMITS)


def test_first_lengths_are_fed_as_a_column() -> None:
    assert fed(FIRST_LENGTH, [np.array(4), np.array(2)]) == {"first_length": ("int32", [[4], [2]])}


def test_images_are_fed_as_a_stack() -> None:
    pixels = PIXELS.feed([np.zeros((3, 4, 5), np.uint8)] * 2)["pixels"]
    assert pixels.shape == (2, 3, 4, 5)
    assert pixels.dtype == np.uint8


def test_a_row_costs_its_tokens_and_an_image_what_an_image_does() -> None:
    assert [TEXT.cost(np.zeros(7)), FIRST_LENGTH.cost(np.array(3)), PIXELS.cost(np.zeros((3, 4, 5)))] == [
        7,
        0,
        IMAGE_TOKENS,
    ]


@pytest.fixture(scope="module", params=[TOGETHER, SIDE_BY_SIDE, None], ids=["together", "side by side", "measured"])
def engine(bert_graph: Path, request: pytest.FixtureRequest) -> Engine:
    return Engine(bert_graph, "f32", paces=request.param)


def test_engine_knows_its_fields_and_outputs_from_the_graph(engine: Engine, bert_tower: Tower) -> None:
    assert engine.fields == (TEXT,)
    assert engine.outputs == bert_tower.outputs
    assert engine.precision == "f32"


def test_rows_in_any_mix_have_the_vectors_of_the_reference(engine: Engine, bert_tower: Tower) -> None:
    random = np.random.default_rng(7)
    lengths = np.clip(random.lognormal(3.5, 1, 60).astype(int), 1, 100)
    assert lengths.sum() > 3 * PACK_TOKENS
    rows: list[Row] = [(random.integers(5, 400, length),) for length in lengths]
    with torch.inference_mode():
        expected = [bert_tower.reference(row) for row in rows]
    found = engine.run(rows, ["embedding", "tokens"])
    assert_close(found["embedding"], np.stack([one["embedding"] for one in expected]))
    for tokens, one in zip(found["tokens"], expected, strict=True):
        assert_close(tokens, one["tokens"])


def test_outputs_that_nobody_wants_are_left_out(engine: Engine, bert_tower: Tower) -> None:
    rows = bert_tower.samples()[:3]
    assert list(engine.run(rows, ["tokens"])) == ["tokens"]
    assert engine.run(rows, []) == {}
    assert engine.run(rows, ["embedding", "score"]).keys() == {"embedding"}


def test_each_row_has_the_outputs_that_it_wants_and_no_others(engine: Engine, bert_tower: Tower) -> None:
    rows = bert_tower.samples()[:6]
    wanted = ["tokens", "embedding"]
    each = [["embedding"] if place % 2 else wanted for place in range(6)]
    expected, found = engine.run(rows, wanted), engine.run(rows, wanted, each)
    assert np.array_equal(found["embedding"], expected["embedding"])
    for place in range(6):
        own = expected["tokens"][place]
        assert np.array_equal(found["tokens"][place], own[:0] if place % 2 else own)
    bare = engine.run(rows, wanted, [["tokens"], *[[]] * 5])
    assert np.array_equal(bare["tokens"][0], expected["tokens"][0])
    assert not np.asarray(bare["embedding"]).any()


def test_an_answer_stays_what_it_was_when_the_engine_goes_on(engine: Engine, bert_tower: Tower) -> None:
    """OpenVINO takes the memory of its outputs again."""
    short, *_, long = bert_tower.samples()
    before = engine.run([short], ["embedding", "tokens"])
    copied = {name: np.array(values[0]) for name, values in before.items()}
    engine.run([long], ["embedding", "tokens"])
    for name, values in before.items():
        np.testing.assert_array_equal(values[0], copied[name])


def test_engine_counts_tokens_and_the_attention_of_padding(bert_graph: Path) -> None:
    engine = Engine(bert_graph, "f32", paces=TOGETHER)
    engine.run([(np.full(length, 5, np.int64),) for length in (20, 20, 10)], ["embedding"])  # one pack
    assert (engine.counts.tokens, engine.counts.in_flight) == (50, 0)
    assert engine.counts.executions == {"compiled": 1}
    assert math.isclose(engine.counts.padding, (3 * 20**2 - (20**2 + 20**2 + 10**2)) / CELLS_PER_TOKEN)


def test_no_rows_give_no_results(engine: Engine) -> None:
    found = engine.run([], ["embedding", "tokens"])
    assert np.shape(found["embedding"]) == (0, engine.outputs[0].shape[0])
    assert found["tokens"] == []
