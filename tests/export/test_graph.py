from pathlib import Path

import onnx
import pytest


@pytest.mark.parametrize(("name", "width"), [("all-minilm-l6-v2", 384), ("minilm-late-interaction", 1)])
def test_graph_is_one_that_older_tritons_read(repository: Path, name: str, width: int) -> None:
    model = onnx.load(repository / name / "1" / "model.onnx")
    assert [opset.version for opset in model.opset_import if not opset.domain] == [17]
    assert model.ir_version <= 10
    rows, columns = model.graph.output[0].type.tensor_type.shape.dim
    assert rows.dim_param
    assert columns.dim_value == width


def test_graph_has_no_size_frozen_in_its_inputs(repository: Path) -> None:
    model = onnx.load(repository / "all-minilm-l6-v2" / "1" / "model.onnx", load_external_data=False)
    dims = {tensor.name: tensor.type.tensor_type.shape.dim for tensor in model.graph.input}
    assert [dims["input_ids"][0].dim_param != "", dims["row_stride"][0].dim_param != ""] == [True, True]
    assert dims["length"][1].dim_value == 1
