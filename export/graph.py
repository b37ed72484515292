"""Traces a task's head into an ONNX file that every Triton since 24.10 can read."""

import warnings
from pathlib import Path

import onnx
import torch

from export.errors import SourceError
from export.tasks import TaskGraph
from export.tower import TextTower

OPSET = 17
"""LayerNormalization is one operator since 17; ONNX Runtime 1.19, in Triton 24.10, reads up to 21."""
NEWEST_IR = 10
"""The newest IR version that ONNX Runtime 1.19 reads."""


def trace(task: TaskGraph, tower: TextTower, path: Path) -> None:
    """Write the graph of a tower's task to `path`.

    Its inputs are, for every segment, ids INT64 [any], stride INT32 [N] and length INT32 [N, 1]; its output is FP32
    [N, width] with the width a number, which Triton compares with the config.

    Raises:
        SourceError: the model's code does not let itself be traced in rows.
    """
    # Three rows of different length, one with padding to drop: no size may look like a constant.
    lengths = torch.tensor([5, 19, 12], dtype=torch.int32)
    strides = torch.tensor([5, 22, 12], dtype=torch.int32)
    ids = torch.arange(int(strides.sum())) % tower.vocabulary_size
    names = [name for segment in task.segments for name in (segment.ids, segment.stride, segment.length)]
    # In eval mode before the export: it puts the modules back as it found them, and dropout would stay on.
    head = task.head(tower).eval()
    try:
        with warnings.catch_warnings():
            # The tracer warns of every size it takes for a constant, and that its successor is the default: that one
            # cannot trace an attention that depends on values. Verification finds what is wrongly constant.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                head,
                (ids, strides, lengths[:, None]) * len(task.segments),
                path,
                input_names=names,
                output_names=[task.output],
                dynamic_axes={name: {0: name} for name in [*names, task.output]},
                opset_version=OPSET,
                dynamo=False,
            )
    except (RuntimeError, TypeError, ValueError) as exc:
        raise SourceError(
            f"[{tower.name}] source: this architecture cannot be traced as a packed graph: {exc}"
        ) from exc
    model = onnx.load(path)
    model.ir_version = min(model.ir_version, NEWEST_IR)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = task.width(tower)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
