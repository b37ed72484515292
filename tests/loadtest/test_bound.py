"""ONNX Runtime in process, with a graph of two operators."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from loadtest.tools import agreement, ceiling
from loadtest.tools.bound import OnnxRuntime, Setting, padded
from loadtest.tools.client import BenchmarkError

ROWS = [(np.array(ids, np.int64),) for ids in ([3, 4, 5], [7], [1, 1])]


@pytest.fixture
def engine(tmp_path: Path) -> OnnxRuntime:
    """A graph whose hidden states are the ids and their squares."""
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "tokens"]) for name in names]
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["rows", "tokens", 2])
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["numbers", "last"], ["one"]),
        helper.make_node("Mul", ["one", "one"], ["other"]),
        helper.make_node("Concat", ["one", "other"], ["last_hidden_state"], axis=2),
    ]
    last = helper.make_tensor("last", TensorProto.INT64, [1], [2])
    graph = helper.make_graph(nodes, "graph", inputs, [output], [last])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return OnnxRuntime(path)


def test_rows_are_padded_to_the_longest() -> None:
    given = padded([ids for (ids,) in ROWS])
    assert given["input_ids"].tolist() == [[3, 4, 5], [7, 0, 0], [1, 1, 0]]
    assert given["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert given["token_type_ids"].tolist() == [[0, 0, 0]] * 3


def test_vectors_are_means_over_real_tokens(engine: OnnxRuntime) -> None:
    means = np.array([[4, 50 / 3], [7, 49], [1, 1]])
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    assert engine.embed(ROWS) == pytest.approx(expected, rel=1e-5)


def test_best_setting_has_no_more_rows_than_clients_send(engine: OnnxRuntime) -> None:
    assert engine.best(ROWS, most=1, seconds=0).batch == 1
    assert engine.best(ROWS, most=16, seconds=0).batch in {1, 4, 16}
    assert str(Setting(16, spins=False)) == "16 rows, threads sleep"


def test_all_rows_known_at_a_time_are_computed(engine: OnnxRuntime) -> None:
    assert ceiling.rows_per_second(lambda rows: engine.run(rows, Setting(2, spins=True)), ROWS, seconds=0.01) > 0


def test_a_row_after_a_pause_is_timed_alone() -> None:
    given: list[int] = []
    ceiling.row_ms(lambda rows: given.append(len(rows)), ROWS, seconds=0.05)
    assert set(given) == {1}


def test_vectors_that_differ_end_the_benchmark() -> None:
    ours = np.eye(2)
    assert agreement.lowest_cosine("alike", ours, np.eye(2)) == 1
    with pytest.raises(BenchmarkError, match=r"^other computes something else than Conch: a cosine of 0\.0000"):
        agreement.lowest_cosine("other", ours, np.eye(2)[::-1])
