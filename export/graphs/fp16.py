"""Turns an fp32 graph into one of mixed precision: fp16 where that is safe, and its types say where.

TensorRT 11 takes the precision from the graph's types and from nothing else; 10 does so when asked to. The converter of
`onnxruntime.transformers` rounds between any two operators that it keeps in fp32, and with that the mean of squares in
an RMSNorm is infinite again. Here what was computed in fp32 stays so until a matrix product takes it.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    external_data_helper,
    helper,
    numpy_helper,
    shape_inference,
)

from export.errors import SourceError

NARROW = frozenset({"Conv", "Gemm", "MatMul"})
"""Computed in fp16: nearly all of the work. TensorRT adds their products up in fp32."""
WIDE = frozenset(
    [
        *("Pow", "Sqrt", "Reciprocal", "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2", "LpNormalization"),
        *("LayerNormalization", "LogSoftmax", "Exp", "Log", "Erf", "Tanh", "CumSum", "Sin", "Cos"),
        *("Cast", "Range", "Resize"),  # lengths and positions: fp16 counts to 2,048
    ]
)
"""Computed in fp32: what squares or adds up many values, or makes much of a small difference. Any other operator
follows its inputs: fp32 where one of them is. So does Softmax, although it adds up many values: engines do that in fp32
whatever the types, and TensorRT fuses attention only if there is no cast between its two products."""
BOUNDED = frozenset({"LayerNormalization", "Softmax", "Sin", "Cos"})
"""Computed in fp32 to results of order 1, which leave the choice to what follows."""

LIMIT = float(np.finfo(np.float16).max)
CLAMPED = 2.0**15
"""The value that replaces constants beyond fp16: half of the limit, so that adding a score does not overflow. As a
mask it still gives a softmax weight of 0."""
LOWEST_WEIGHT = -1e30
"""Values below this are masks: the lowest fp32 or -inf."""
SUFFIX: Mapping[int, str] = {TensorProto.FLOAT: "float", TensorProto.FLOAT16: "half"}
"""The suffix of the names of added tensors, by type."""
INLINE_BYTES = 1024
"""Smaller tensors stay in the graph's file, where shape inference reads them."""


def convert(path: Path) -> None:
    """Put a graph of mixed precision in the place of the fp32 ONNX file `path`.

    Inputs and outputs keep their names and types. Weights that were in files of their own are in `<name>.data` after.

    Raises:
        SourceError: a weight is beyond the range of fp16, or the graph has branches or loops. The file is as it was.
    """
    model = onnx.load(path, load_external_data=False)
    files = {
        path.parent / entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    types = _types(model)  # before the weights are there: it takes 2 GB at most
    external_data_helper.load_external_data_for_model(model, str(path.parent))
    _Rewriting(model.graph, types).run()
    _save(model, path, files)


def _types(model: ModelProto) -> dict[str, int]:
    """The element type of every tensor; constants may be missing."""
    graph = shape_inference.infer_shapes(model).graph
    return {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}


def _save(model: ModelProto, path: Path, files: set[Path]) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        onnx.save(
            model,
            Path(scratch) / path.name,
            save_as_external_data=bool(files),
            location=f"{path.name}.data",
            size_threshold=INLINE_BYTES,
        )
        for file in files:
            file.unlink()
        for file in Path(scratch).iterdir():
            file.replace(path.parent / file.name)


class _Rewriting:
    """A graph while its nodes, which are in order of computation, are rewritten one after the other."""

    def __init__(self, graph: GraphProto, types: Mapping[str, int]) -> None:
        self.graph = graph
        self.types = types
        """The types of all tensors before the conversion."""
        self.constants = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
        self.constants |= {node.output[0]: node.attribute[0].t for node in graph.node if _is_constant(node)}
        self.computed: dict[str, int] = {
            value.name: TensorProto.FLOAT for value in graph.input if self._is_float(value.name)
        }
        """The types, as they are now, of fp32 tensors that are not constants."""
        self.wide = set(self.computed)
        """The tensors whose consumers stay in fp32."""
        self.angles = _angles(graph)
        self.outputs = {value.name for value in graph.output}
        self.nodes: list[NodeProto] = []
        self.initializers = [tensor for tensor in graph.initializer if tensor.data_type != TensorProto.FLOAT]
        self.added: set[str] = set()
        """Names of constants and casts that are there by now."""

    def run(self) -> None:
        """Rewrite the graph."""
        for node in self.graph.node:
            if any(attribute.type == AttributeProto.GRAPH for attribute in node.attribute):
                raise SourceError(f"{node.op_type} {node.name}: branches and loops cannot be converted to fp16")
            if not _is_constant(node):
                self._rewrite(node)
        del self.graph.node[:]
        del self.graph.initializer[:]
        del self.graph.value_info[:]  # they name the former types
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend(self.initializers)

    def _is_float(self, name: str) -> bool:
        return self.types.get(name) == TensorProto.FLOAT

    def _rewrite(self, node: NodeProto) -> None:
        precision = self._precision(node)
        keeps = node.op_type not in BOUNDED and not self._is_flag(node)
        for i, name in enumerate(node.input):
            if name in self.constants or name in self.computed:
                node.input[i] = self._cast(name, precision)
        self.nodes.append(node)
        for i, name in enumerate(node.output):
            if self._is_float(name):
                self.computed[name] = precision
                if precision == TensorProto.FLOAT and keeps:
                    self.wide.add(name)
                elif precision == TensorProto.FLOAT16 and name in self.outputs:
                    node.output[i] = f"{name}/{SUFFIX[precision]}"
                    self.added.add(node.output[i])
                    self.nodes.append(_cast(node.output[i], name, TensorProto.FLOAT))
                    self.computed[name] = TensorProto.FLOAT

    def _precision(self, node: NodeProto) -> int:
        """The type in which to compute the node."""
        if node.op_type in NARROW and not self.angles.intersection(node.output):
            return TensorProto.FLOAT16
        is_square = node.op_type == "Mul" and node.input[0] == node.input[1]
        has_floats = any(name in self.constants or name in self.computed for name in node.input)
        if (
            node.op_type in WIDE
            or is_square
            or not has_floats  # its type is in its attributes
            or self.wide.intersection(node.input)
            or self.angles.intersection(node.output)
        ):
            return TensorProto.FLOAT
        return TensorProto.FLOAT16

    def _is_flag(self, node: NodeProto) -> bool:
        """Whether the node makes a number of a truth value, which fp16 holds exactly."""
        return node.op_type == "Cast" and self.types.get(node.input[0]) == TensorProto.BOOL

    def _cast(self, name: str, precision: int) -> str:
        """The name under which a fp32 tensor of old is there in the given type."""
        if self.computed.get(name) == precision:
            return name
        target = f"{name}/{SUFFIX[precision]}"
        if target not in self.added:
            self.added.add(target)
            if name in self.constants:
                self.initializers.append(_constant(self.constants[name], name, target, precision))
            else:
                self.nodes.append(_cast(name, target, precision))
        return target


def _is_constant(node: NodeProto) -> bool:
    return (
        node.op_type == "Constant"
        and node.attribute[0].name == "value"
        and node.attribute[0].t.data_type == TensorProto.FLOAT
    )


def _angles(graph: GraphProto) -> set[str]:
    """The tensors that rotary embeddings take their sines of: products, but of positions, which fp16 would round."""
    angles: set[str] = set()
    for node in reversed(graph.node):
        if node.op_type in {"Sin", "Cos"} or angles.intersection(node.output):
            angles.update(node.input)
    return angles


def _cast(name: str, target: str, precision: int) -> NodeProto:
    return helper.make_node("Cast", [name], [target], name=target, to=precision)


def _constant(tensor: TensorProto, name: str, target: str, precision: int) -> TensorProto:
    """A constant of the given type.

    Raises:
        SourceError: it has several values, and one of them is beyond fp16 and not a mask.
    """
    values = numpy_helper.to_array(tensor)
    if precision == TensorProto.FLOAT16:
        beyond = values[~(np.abs(values) <= LIMIT)]
        if values.size > 1 and not (beyond < LOWEST_WEIGHT).all():
            raise SourceError(f"{name}: {np.abs(beyond).max():g} is beyond the range of fp16, {LIMIT:g}")
        values = np.where(np.abs(values) <= LIMIT, values, np.copysign(CLAMPED, values)) if beyond.size else values
        values = values.astype(np.float16)
    return numpy_helper.from_array(values, target)
