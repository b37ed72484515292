from pathlib import Path

import numpy as np
import pytest

from export.runtime.contract import TEXT
from export.runtime.streams import Feed, Streams

LENGTHS = (3, 40, 7, 7, 21, 1, 60)


@pytest.fixture(scope="module")
def streams(bert_graph: Path) -> Streams:
    return Streams(bert_graph, "f32")


def feed(length: int) -> Feed:
    return TEXT.feed([np.arange(5, 5 + length, dtype=np.int64)])


def test_executions_side_by_side_equal_those_on_all_cores(streams: Streams) -> None:
    expected = [streams.on_all(feed(length)).get_output_tensor(0).data.copy() for length in LENGTHS]
    found = {
        place: request.get_output_tensor(0).data.copy()
        for place, request in streams.on_one([feed(length) for length in LENGTHS], LENGTHS)
    }
    assert sorted(found) == list(range(len(LENGTHS)))
    for place, values in found.items():
        np.testing.assert_allclose(values, expected[place], rtol=1e-4, atol=1e-5)


def test_error_of_an_execution_leaves_the_others_usable(streams: Streams) -> None:
    wrong = {**feed(3), "length": np.ones((2, 2), np.int32)}
    with pytest.raises(RuntimeError):
        list(streams.on_one([feed(40), wrong, feed(3), feed(40)], [1, 1, 1, 1]))
    assert len(list(streams.on_one([feed(length) for length in LENGTHS], LENGTHS))) == len(LENGTHS)


def test_caller_who_has_enough_leaves_nothing_running(streams: Streams) -> None:
    for _ in streams.on_one([feed(length) for length in LENGTHS], LENGTHS):
        break
    assert len(list(streams.on_one([feed(3)], [1]))) == 1
