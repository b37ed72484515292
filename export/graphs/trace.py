"""Traces a tower into an ONNX file that every Triton since 24.10 can read."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor
from torch.onnx import symbolic_helper, utils

from export.errors import SourceError
from export.packing.encoder import RowEncoder
from export.packing.rows import Rows, from_ragged, from_rectangle
from export.runtime.contract import Field, Pixels, Prefix, Tokens
from export.tower import Tower

OPSET = 17
"""LayerNormalization is one operator since 17; ONNX Runtime 1.19, in Triton 24.10, reads up to 21."""
NEWEST_IR = 10
"""The newest IR version that ONNX Runtime 1.19 reads."""
WEIGHTS = "model.onnx.data"
"""The file of weights beside the graph, since a graph file may not exceed 2 GiB."""


def _repeat_interleave(g: Any, values: Any, repeats: Any, dim: Any, *_: object) -> Any:  # noqa: ANN401 - of the tracer
    """Translate the repetition of each element along the last dimension, [..., D] to [..., D * repeats].

    RoPE of Cohere and its kin does so with frequencies; the tracer's own translation takes a dimension counted from
    behind for another one.
    """
    rank = values.type().dim()
    times = symbolic_helper._maybe_get_const(repeats, "t")
    axis = symbolic_helper._maybe_get_const(dim, "i")
    if not isinstance(times, Tensor) or times.dim() or axis not in (-1, rank - 1):
        raise ValueError("it repeats elements in a way that cannot be exported")
    apart = g.op("Unsqueeze", values, g.op("Constant", value_t=torch.tensor([-1])))
    repeated = g.op("Concat", *[apart] * int(times), axis_i=-1)
    shape = [0] * (rank - 1) + [-1]  # 0 keeps a dimension
    return g.op("Reshape", repeated, g.op("Constant", value_t=torch.tensor(shape)))


utils.register_custom_op_symbolic("aten::repeat_interleave", _repeat_interleave, OPSET)


def inputs(fields: Sequence[Field], *, ragged: bool) -> list[str]:
    """The inputs of a graph, in order: with row strides where rows come flattened."""
    return [
        name
        for field in fields
        for name in ((field.ids, field.stride, field.length) if ragged and isinstance(field, Tokens) else field.inputs)
    ]


def trace(tower: Tower, path: Path, *, ragged: bool, slices: int = 1) -> None:
    """Write a tower's graph to `path`, and its weights beside it.

    Its inputs are those of `Field`; where rows are not ragged, ids are INT64 [N, L] and have no stride. Its output is
    FP32 [N, width] with the width a number, which Triton compares with the config.

    Args:
        tower: what to trace.
        path: the file to write, alone in its folder.
        ragged: whether rows come flattened.
        slices: into which attention cuts the queries of a row.

    Raises:
        SourceError: the model's code does not let itself be traced.
    """
    names = inputs(tower.fields, ragged=ragged)
    examples = [example for field in tower.fields for example in _examples(tower, field, ragged=ragged)]
    axes: dict[str, dict[int, str]] = {name: {0: f"{name}_rows"} for name in [*names, tower.role.output]}
    if not ragged:
        axes |= {
            field.ids: {0: "rows", 1: f"{field.ids}_length"} for field in tower.fields if isinstance(field, Tokens)
        }
    for module in tower.head.modules():
        if isinstance(module, RowEncoder):
            module.slices = slices
    # In eval mode before the export: it puts the modules back as it found them, and dropout would stay on.
    graph = _Graph(tower, ragged=ragged).eval()
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            # The tracer warns of every size it takes for a constant, and that its successor is the default.
            # Verification finds what is wrongly constant. The successor, torch.export with onnxscript, gives graphs as
            # exact and as fast on OpenVINO, of half as many nodes, in 11 s for all-MiniLM-L6-v2: here it takes 1.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph,
                tuple(examples),
                path,
                input_names=names,
                output_names=[tower.role.output],
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,
            )
    except (RuntimeError, TypeError, ValueError) as exc:
        reason = str(exc).partition("\n")[0].partition(" Please ")[0]
        raise SourceError(f"[{tower.name}] source: this architecture cannot be traced: {reason}") from exc
    _finish(tower, path)


def _finish(tower: Tower, path: Path) -> None:
    model = onnx.load(path)
    for file in path.parent.iterdir():  # beyond 2 GiB, the tracer writes a file for each weight
        file.unlink()
    model.ir_version = min(model.ir_version, NEWEST_IR)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = tower.width
    onnx.save(model, path, save_as_external_data=True, location=WEIGHTS, size_threshold=1024)
    onnx.checker.check_model(path, full_check=True)


class _Graph(torch.nn.Module):
    """The traced module: makes rows from a graph's inputs and passes them to the head."""

    def __init__(self, tower: Tower, *, ragged: bool) -> None:
        super().__init__()
        self.head = tower.head
        self.fields = tower.fields
        self.ragged = ragged
        self.padding = tower.vocabulary.padding if tower.vocabulary else 0

    def forward(self, *tensors: Tensor) -> Tensor:
        given = dict(zip(inputs(self.fields, ragged=self.ragged), tensors, strict=True))
        arguments = [self._argument(field, given) for field in self.fields if not isinstance(field, Prefix)]
        output: Tensor = self.head(*arguments)
        return output

    def _argument(self, field: Field, given: dict[str, Tensor]) -> Rows | Tensor:
        if isinstance(field, Tokens):
            ids, length = given[field.ids], given[field.length]
            rows = (
                from_ragged(ids, given[field.stride], length, self.padding)
                if self.ragged
                else from_rectangle(ids, length, self.padding)
            )
            prefixes = [field.name for field in self.fields if isinstance(field, Prefix)]
            return replace(rows, **{name: given[name].squeeze(1).to(torch.int64) for name in prefixes})
        return given[field.name]


def _examples(tower: Tower, field: Field, *, ragged: bool) -> list[Tensor]:
    """Three rows of different length, one with padding to drop: no size may look like a constant."""
    lengths = torch.tensor([5, 19, 12], dtype=torch.int32)[:, None]
    if isinstance(field, Pixels):
        return [torch.from_numpy(row[0])[None].repeat(3, 1, 1, 1) for row in tower.samples()[:1]]
    if not isinstance(field, Tokens):
        return [torch.tensor([[2], [7], [1]], dtype=torch.int32)]
    size = tower.vocabulary.size if tower.vocabulary else 1
    if ragged:
        strides = torch.tensor([5, 22, 12], dtype=torch.int32)
        return [torch.arange(int(strides.sum())) % size, strides, lengths]
    return [(torch.arange(3 * 22) % size).reshape(3, 22), lengths]
