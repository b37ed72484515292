import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import openvino as ov
import pytest
import torch

from export.graphs import trace
from export.manifest import ModelSpec
from export.runtime.contract import FIELDS, Row
from export.tasks import cross_encoder, text_embedding
from export.tower import Tower
from export.verification.runners import (
    CUDA,
    OnnxRuntime,
    OpenVino,
    Runner,
    Tensors,
    check_cuda,
    collect,
    cuda_options,
    request,
    runners,
    scatter,
    split,
)
from loadtest.tools import tiny
from tests.export.outputs import assert_close

TEXT, FIRST_LENGTH, PROMPT_LENGTH, QUERY, DOCUMENT, *_, PIXELS = FIELDS
COMPUTES_IN_BF16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def listed(tensors: Tensors) -> dict[str, tuple[str, list[object]]]:
    return {name: (array.dtype.name, array.tolist()) for name, array in tensors.items()}


def test_onnx_runtime_counts_no_uses(tmp_path: Path) -> None:
    """Where it does, it keeps an id of this machine in a hidden file."""
    command = [sys.executable, "-c", "import export.preload, onnxruntime"]
    subprocess.run(command, check=True, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert not (tmp_path / ".ses").exists()


def test_request_pads_its_rows_to_its_longest() -> None:
    rows: list[Row] = [(np.array([5, 6, 7]), np.array(2)), (np.array([8]), np.array(1))]
    assert listed(request(rows, (TEXT, FIRST_LENGTH))) == {
        "input_ids": ("int64", [[5, 6, 7], [8, 0, 0]]),
        "length": ("int32", [[3], [1]]),
        "first_length": ("int32", [[2], [1]]),
    }


def test_ragged_input_is_every_requests_elements_one_behind_the_other() -> None:
    # As backend_input_collector.cc does: row by row, with the padding inside each request, and the stored length of a
    # row once for each of a request's rows.
    requests: list[Tensors] = [
        {"input_ids": np.array([[1, 2, 3], [4, 0, 0]]), "length": np.array([[3], [1]], np.int32)},
        {"input_ids": np.array([[5, 6]]), "length": np.array([[2]], np.int32)},
    ]
    assert listed(collect(requests, (TEXT,))) == {
        "input_ids": ("int64", [1, 2, 3, 4, 0, 0, 5, 6]),
        "row_stride": ("int32", [3, 3, 2]),
        "length": ("int32", [[3], [1], [2]]),
    }


def test_every_run_of_token_ids_is_collected_with_its_own_lengths() -> None:
    rows: list[list[Row]] = [
        [(np.array([5, 6]), np.array([7]))],
        [(np.array([8]), np.array([9, 10, 11])), (np.array([8]), np.array([12]))],
    ]
    collected = collect([request(part, (QUERY, DOCUMENT)) for part in rows], (QUERY, DOCUMENT))
    assert listed(collected) == {
        "query_ids": ("int64", [5, 6, 8, 8]),
        "query_stride": ("int32", [2, 1, 1]),
        "query_length": ("int32", [[2], [1], [1]]),
        "document_ids": ("int64", [7, 9, 10, 11, 12, 0, 0]),
        "document_stride": ("int32", [1, 3, 3]),
        "document_length": ("int32", [[1], [3], [1]]),
    }


def test_images_are_collected_by_rows() -> None:
    requests: list[Tensors] = [{"pixels": np.full((count, 3, 2, 2), count, np.uint8)} for count in (2, 1)]
    pixels = collect(requests, (PIXELS,))["pixels"]
    assert pixels[:, 0, 0, 0].tolist() == [2, 2, 1]


def test_output_is_split_by_the_rows_of_each_request() -> None:
    requests: list[Tensors] = [{"input_ids": np.zeros((count, 4), np.int64)} for count in (2, 1, 3)]
    output = np.arange(12, dtype=np.float32).reshape(6, 2)
    assert [part.tolist() for part in split(output, requests)] == [
        [[0, 1], [2, 3]],
        [[4, 5]],
        [[6, 7], [8, 9], [10, 11]],
    ]


def test_values_of_tokens_take_the_shape_of_the_ids_of_each_request() -> None:
    ids = [np.zeros((2, 3), np.int64), np.zeros((1, 1), np.int64)]
    output = np.arange(14, dtype=np.float32).reshape(7, 2)
    assert [part.tolist() for part in scatter(output, ids)] == [
        [[[0, 1], [2, 3], [4, 5]], [[6, 7], [8, 9], [10, 11]]],
        [[[12, 13]]],
    ]
    assert [part.tolist() for part in scatter(output[:, 0], ids)] == [[[0, 2, 4], [6, 8, 10]], [[12]]]


def assert_runs(runner: Runner, tower: Tower) -> None:
    rows = list(tower.samples())
    for some in (rows, rows[-1:]):  # one that is alone has no neighbours to be mixed up with
        outputs = runner.run(some)
        for i, row in enumerate(some):
            with torch.inference_mode():
                expected = tower.reference(row)
            assert outputs.keys() == expected.keys()
            for name, values in expected.items():
                found = outputs[name][i]
                assert_close(found[: len(values)], values, atol=1e-4)
                assert not found[len(values) :].any()


def test_both_ragged_backends_give_rows_in_the_order_given(bert_tower: Tower, bert_graph: Path) -> None:
    assert_runs(OpenVino(bert_graph, "fp32"), bert_tower)
    assert_runs(OnnxRuntime(bert_graph, bert_tower.fields, bert_tower.outputs, "fp32", ragged=True), bert_tower)


def test_padded_batches_give_rows_in_the_order_given(bert: ModelSpec, tmp_path: Path) -> None:
    (tower,) = text_embedding.load(msgspec.structs.replace(bert, backend="tensorrt"), Path(bert.source))
    trace.trace(tower, tmp_path / "model.onnx", ragged=False)
    assert_runs(OnnxRuntime(tmp_path / "model.onnx", tower.fields, tower.outputs, "fp32", ragged=False), tower)


def test_pairs_with_segments_run_in_requests_of_several_rows(tmp_path: Path) -> None:
    source = tiny.write_cross_encoder(tmp_path / "source", labels=1)
    (tower,) = cross_encoder.load(ModelSpec(name="tiny", task="cross-encoder", source=str(source)), source)
    (tmp_path / "graph").mkdir()
    trace.trace(tower, tmp_path / "graph" / "model.onnx", ragged=True)
    assert_runs(OnnxRuntime(tmp_path / "graph" / "model.onnx", tower.fields, tower.outputs, "fp32", ragged=True), tower)


def test_only_images_are_rounded_to_tf32() -> None:
    assert [cuda_options(fields)["use_tf32"] for fields in ((TEXT,), (QUERY, DOCUMENT), (PIXELS,))] == ["0", "0", "1"]


def test_what_was_to_run_on_a_gpu_does_not_run_on_the_cpu_instead() -> None:
    with pytest.raises(RuntimeError, match="CUDA did not start: install"):
        check_cuda(available=[CUDA, "CPUExecutionProvider"], used=["CPUExecutionProvider"])
    check_cuda(available=[CUDA, "CPUExecutionProvider"], used=[CUDA, "CPUExecutionProvider"])
    check_cuda(available=["CPUExecutionProvider"], used=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("backend", "precision", "expected"),
    [
        # A processor without bf16 serves bf16 in fp32, so that both have to hold.
        ("python", None, ["fp32", "bf16" if COMPUTES_IN_BF16 else "fp32"]),
        ("python", "fp32", ["fp32"]),
        ("python", "int8", ["int8"]),
        ("onnxruntime", None, ["fp16"]),
        ("onnxruntime", "fp32", ["fp32"]),
        ("tensorrt", None, ["fp16"]),
        ("tensorrt", "fp32", ["fp32"]),
    ],
)
def test_graph_is_run_as_its_backend_will(
    bert: ModelSpec, bert_tower: Tower, bert_graph: Path, backend: str, precision: str | None, expected: list[str]
) -> None:
    spec = msgspec.convert(msgspec.to_builtins(bert) | {"backend": backend, "precision": precision}, ModelSpec)
    found = list(runners(spec, bert_tower, bert_graph))
    assert [runner.precision for runner in found] == expected
    assert {type(runner) for runner in found} == {OpenVino if backend == "python" else OnnxRuntime}
