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
from export.packing.rows import Rows, from_ragged, from_rectangle, to_ragged
from export.runtime.contract import Field, Output, Pixels, Prefix, Tokens, text_field
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

    Its inputs are those of `Field`; where rows are not ragged, ids are INT64 [N, L] and have no stride. Its outputs are
    those of the tower, with shapes of values that are numbers, which Triton compares with the config: [N, ...] of rows,
    [N, Lq, ...] of query tokens, and of tokens [sum of strides, ...], or [N, L, ...] where rows are not ragged.

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
    axes: dict[str, dict[int, str]] = {name: {0: f"{name}_rows"} for name in names}
    axes |= {
        output.name: {place: f"{output.name}_{place}" for place in range(_sizes(output, ragged=ragged))}
        for output in tower.outputs
    }
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
                output_names=[output.name for output in tower.outputs],
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,
            )
    except (RuntimeError, TypeError, ValueError) as exc:
        reason = str(exc).partition("\n")[0].partition(" Please ")[0]
        raise SourceError(f"[{tower.name}] source: this architecture cannot be traced: {reason}") from exc
    _finish(tower, path, ragged=ragged)


def _sizes(output: Output, *, ragged: bool) -> int:
    """How many sizes of an output change."""
    return 1 if output.per == "row" or (output.per == "token" and ragged) else 2


def _finish(tower: Tower, path: Path, *, ragged: bool) -> None:
    model = onnx.load(path)
    for file in path.parent.iterdir():  # beyond 2 GiB, the tracer writes a file for each weight
        file.unlink()
    model.ir_version = min(model.ir_version, NEWEST_IR)
    for output, written in zip(tower.outputs, model.graph.output, strict=True):
        sizes = written.type.tensor_type.shape.dim[_sizes(output, ragged=ragged) :]
        for size, value in zip(sizes, output.shape, strict=True):
            size.dim_value = value
    onnx.save(model, path, save_as_external_data=True, location=WEIGHTS, size_threshold=1024)
    onnx.checker.check_model(path, full_check=True)


class _Graph(torch.nn.Module):
    """The traced module: makes rows from a graph's inputs and passes them to the head; returns the outputs in order."""

    def __init__(self, tower: Tower, *, ragged: bool) -> None:
        super().__init__()
        self.head = tower.head
        self.fields = tower.fields
        self.outputs = tower.outputs
        self.ragged = ragged
        self.padding = tower.vocabulary.padding if tower.vocabulary else 0

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(inputs(self.fields, ragged=self.ragged), tensors, strict=True))
        arguments = [self._argument(field, given) for field in self.fields if not isinstance(field, Prefix)]
        values: dict[str, Tensor] = self.head(*arguments)
        return tuple(self._output(output, values[output.name], given) for output in self.outputs)

    def _output(self, output: Output, values: Tensor, given: dict[str, Tensor]) -> Tensor:
        if output.per != "token" or not self.ragged:
            return values
        text = text_field(self.fields)
        return to_ragged(values, given[text.stride], given[text.length])

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
