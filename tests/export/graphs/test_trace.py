from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
import transformers
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from onnxruntime import InferenceSession
from torch import Tensor

from export.errors import SourceError
from export.graphs import trace
from export.manifest import ModelSpec
from export.packing.rows import Rows
from export.runtime.contract import FIELDS
from export.tasks import cross_encoder, image_text, text_embedding
from export.tower import Tower
from loadtest.tools import tiny

TEXT, FIRST_LENGTH, PROMPT_LENGTH, QUERY, DOCUMENT, *_, PIXELS = FIELDS


@pytest.fixture(scope="module")
def padded(bert: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("padded") / "model.onnx"
    (tower,) = text_embedding.load(msgspec.structs.replace(bert, backend="tensorrt"), Path(bert.source))
    trace.trace(tower, path, ragged=False)
    return path


def signature(model: ModelProto) -> dict[str, tuple[int, list[int | None]]]:
    """Inputs and outputs: the type, and the shape with None for what may differ between batches."""
    return {
        tensor.name: (
            tensor.type.tensor_type.elem_type,
            [None if dim.dim_param else dim.dim_value for dim in tensor.type.tensor_type.shape.dim],
        )
        for tensor in (*model.graph.input, *model.graph.output)
    }


def test_inputs_have_strides_where_rows_come_flattened() -> None:
    assert trace.inputs((QUERY, DOCUMENT), ragged=True) == [
        "query_ids",
        "query_stride",
        "query_length",
        "document_ids",
        "document_stride",
        "document_length",
    ]
    assert trace.inputs((TEXT, FIRST_LENGTH), ragged=False) == ["input_ids", "length", "first_length"]


def test_ragged_graph_takes_flat_ids_and_gives_a_width_that_is_a_number(bert_graph: Path) -> None:
    assert signature(onnx.load(bert_graph, load_external_data=False)) == {
        "input_ids": (TensorProto.INT64, [None]),
        "row_stride": (TensorProto.INT32, [None]),
        "length": (TensorProto.INT32, [None, 1]),
        "embedding": (TensorProto.FLOAT, [None, tiny.WIDTH]),
        "tokens": (TensorProto.FLOAT, [None, tiny.WIDTH]),
    }


def test_padded_graph_takes_rectangles(padded: Path) -> None:
    assert signature(onnx.load(padded, load_external_data=False)) == {
        "input_ids": (TensorProto.INT64, [None, None]),
        "length": (TensorProto.INT32, [None, 1]),
        "embedding": (TensorProto.FLOAT, [None, tiny.WIDTH]),
        "tokens": (TensorProto.FLOAT, [None, None, tiny.WIDTH]),
    }


def test_graph_of_pairs_takes_the_length_of_the_query(tmp_path: Path) -> None:
    source = tiny.write_cross_encoder(tmp_path / "source")
    (tower,) = cross_encoder.load(ModelSpec(name="tiny", task="cross-encoder", source=str(source)), source)
    (tmp_path / "graph").mkdir()
    trace.trace(tower, tmp_path / "graph" / "model.onnx", ragged=True)
    found = signature(onnx.load(tmp_path / "graph" / "model.onnx", load_external_data=False))
    assert found["first_length"] == (TensorProto.INT32, [None, 1])
    assert found["score"] == (TensorProto.FLOAT, [None, 1])


def test_graph_of_images_takes_bytes_of_one_size(tmp_path: Path) -> None:
    source = tiny.write_image_text(tmp_path / "source", "CLIP")
    _, tower = image_text.load(ModelSpec(name="tiny", task="image-text", source=str(source)), source)
    (tmp_path / "graph").mkdir()
    trace.trace(tower, tmp_path / "graph" / "model.onnx", ragged=True)
    assert signature(onnx.load(tmp_path / "graph" / "model.onnx", load_external_data=False)) == {
        "pixels": (TensorProto.UINT8, [None, 3, tiny.IMAGE, tiny.IMAGE]),
        "embedding": (TensorProto.FLOAT, [None, 24]),
    }


def test_graph_is_one_that_older_tritons_read(bert_graph: Path, padded: Path) -> None:
    for path in (bert_graph, padded):
        model = onnx.load(path, load_external_data=False)
        assert [opset.version for opset in model.opset_import if not opset.domain] == [17]
        assert model.ir_version <= 10


def test_weights_are_beside_the_graph(bert_graph: Path) -> None:
    assert sorted(file.name for file in bert_graph.parent.iterdir()) == ["model.onnx", "model.onnx.data"]
    weights = onnx.load(bert_graph, load_external_data=False).graph.initializer
    assert {entry.value for tensor in weights for entry in tensor.external_data if entry.key == "location"} == {
        "model.onnx.data"
    }


@pytest.mark.parametrize("garbage", [-1, 10**9])
def test_what_stands_behind_a_row_changes_nothing(
    bert_graph: Path, padded: Path, bert_tower: Tower, garbage: int
) -> None:
    random = np.random.default_rng(5)
    rows = [random.integers(5, 400, length) for length in (4, 60, 23, 1)]
    with torch.inference_mode():
        expected = [bert_tower.reference((row,)) for row in rows]
    length = np.array([[len(row)] for row in rows], np.int32)
    behind = [np.full(count, garbage) for count in (7, 0, 40, 2)]
    ragged: dict[str, NDArray[np.generic]] = {
        "input_ids": np.concatenate([part for pair in zip(rows, behind, strict=True) for part in pair]),
        "row_stride": np.array([len(row) + len(more) for row, more in zip(rows, behind, strict=True)], np.int32),
        "length": length,
    }
    rectangle: dict[str, NDArray[np.generic]] = {
        "input_ids": np.stack([np.pad(row, (0, 64 - len(row)), constant_values=garbage) for row in rows]),
        "length": length,
    }
    for path, feed in ((bert_graph, ragged), (padded, rectangle)):
        embedding, tokens = InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feed)
        np.testing.assert_allclose(embedding, np.stack([one["embedding"] for one in expected]), atol=1e-5)
        by_rows = np.split(tokens, np.cumsum(ragged["row_stride"])[:-1]) if path == bert_graph else tokens
        for one, found in zip(expected, by_rows, strict=True):
            np.testing.assert_allclose(found[: len(one["tokens"])], one["tokens"], atol=1e-5)
            assert not found[len(one["tokens"]) :].any()


def test_architecture_that_cannot_be_traced_is_named(tmp_path: Path) -> None:
    # A mixture of experts counts the tokens of each by a histogram, which ONNX does not have.
    settings = transformers.Qwen3MoeConfig(
        **tiny.DECODER,
        vocab_size=len(tiny.decoder_pairs()),
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
    )
    source = tiny.write(tmp_path / "source", transformers.Qwen3MoeModel(settings), tiny.decoder_pairs())
    spec = ModelSpec(name="tiny", task="text-embedding", source=str(source), pooling="mean", max_tokens=64)
    (tower,) = text_embedding.load(spec, source)
    with pytest.raises(SourceError, match=r"^\[tiny\] source: this architecture cannot be traced: .*histc"):
        trace.trace(tower, tmp_path / "model.onnx", ragged=True)


def test_dropout_is_off_in_the_graph_even_if_the_head_is_left_in_training(bert_tower: Tower, tmp_path: Path) -> None:
    class Dropping(torch.nn.Module):
        def __init__(self, head: torch.nn.Module) -> None:
            super().__init__()
            self.head, self.dropout = head, torch.nn.Dropout(0.5)

        def forward(self, rows: Rows) -> dict[str, Tensor]:
            return {name: self.dropout(values) for name, values in self.head(rows).items()}

    trace.trace(replace(bert_tower, head=Dropping(bert_tower.head).train()), tmp_path / "model.onnx", ragged=True)
    operators = {node.op_type for node in onnx.load(tmp_path / "model.onnx", load_external_data=False).graph.node}
    assert "Dropout" not in operators
    assert "RandomUniformLike" not in operators


def test_no_product_has_a_mask_as_a_factor(bert_graph: Path) -> None:
    """OpenVINO 2026.4 computes a product of a converted boolean in integers, on Arm."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(bert_graph, load_external_data=False)).graph
    masks = {value.name for value in graph.value_info if value.type.tensor_type.elem_type == TensorProto.BOOL}
    converted = {node.output[0] for node in graph.node if node.op_type == "Cast" and node.input[0] in masks}
    products = [node.name for node in graph.node if node.op_type == "Mul" and converted & set(node.input)]
    assert masks
    assert products == []
