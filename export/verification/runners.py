"""Runs a finished graph for verification, as each backend of Triton will when it serves."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import onnxruntime as ort
import torch

from export.errors import SourceError
from export.manifest import ModelSpec, Precision
from export.plans.measures import Values
from export.runtime.contract import OUTPUTS, Array, Field, Output, Row, Tokens, text_field
from export.runtime.engine import HINTS, NAMES, Engine
from export.runtime.packs import TYPICAL
from export.runtime.torch_engine import Engine as TorchEngine
from export.tower import Tower

CUDA = "CUDAExecutionProvider"
"""The GPU provider of `onnxruntime-gpu`. A CPU rounds weights to fp16 but computes in fp32: it verifies less."""

Tensors = dict[str, Array]


class Runner(Protocol):
    """Computes rows in one precision."""

    precision: Precision

    def run(self, rows: Sequence[Row]) -> Mapping[str, Values]:
        """All outputs of every row, in the order given, all of them in one batch where the backend would.

        Raises:
            SourceError: the engine cannot compute what the graph asks for.
        """


def runners(spec: ModelSpec, tower: Tower, graph: Path) -> Iterator[Runner]:
    """The runners that a tower's graph has to pass for what its entry will do, one after the other."""
    precision = spec.computes_in
    if spec.backend == "python":
        if precision == "bf16":  # the processor that serves may not compute in it
            yield OpenVino(graph, "fp32")
        yield OpenVino(graph, precision)
    elif spec.backend == "torch":
        yield Torch(graph, precision)
    else:
        yield OnnxRuntime(graph, tower.fields, tower.outputs, precision, ragged=spec.backend == "onnxruntime")


@contextmanager
def _running(engine: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as exc:
        reason = str(exc).strip().splitlines()[-1]
        raise SourceError(f"source: {engine} cannot run the graph: {reason}") from exc


class OpenVino:
    """The engine of the python backend."""

    def __init__(self, graph: Path, precision: Precision) -> None:
        with _running("OpenVINO"):
            self._engine = Engine(graph, HINTS[precision], paces=TYPICAL)
        self.precision = precision if precision == "int8" else cast(Precision, NAMES[self._engine.precision])

    def run(self, rows: Sequence[Row], wanted: Collection[str] = OUTPUTS) -> Mapping[str, Values]:
        with _running("OpenVINO"):
            return self._engine.run(rows, wanted)


class Torch:
    """The engine of the torch backend, on the GPU where there is one."""

    def __init__(self, graph: Path, precision: Precision) -> None:
        with _running("torch"):
            self._engine = TorchEngine(graph, device="cuda:0" if torch.cuda.is_available() else "cpu")
        self.precision: Precision = precision

    def run(self, rows: Sequence[Row]) -> Mapping[str, Values]:
        with _running("torch"):
            return self._engine.run(rows, OUTPUTS)


class OnnxRuntime:
    """ONNX Runtime behind Triton's collector, which this follows to the letter."""

    def __init__(
        self, graph: Path, fields: Sequence[Field], outputs: Sequence[Output], precision: Precision, *, ragged: bool
    ) -> None:
        """Open a graph.

        Args:
            graph: an ONNX file.
            fields: the fields of its rows.
            outputs: its outputs.
            precision: that the graph was written in.
            ragged: whether Triton concatenates rows of different length; otherwise each batch has one.
        """
        options = ort.SessionOptions()
        options.enable_cpu_mem_arena = False  # it keeps what a long row took, rounded up to a power of two
        options.log_severity_level = 3  # errors: it warns of every fp16 operator that a CPU has no kernel for
        with _running("ONNX Runtime"):
            self._session = ort.InferenceSession(graph, options, providers=_providers(fields))
            check_cuda(ort.get_available_providers(), self._session.get_providers())
        self._fields = fields
        self._outputs = outputs
        self._ragged = ragged
        self.precision: Precision = precision

    def run(self, rows: Sequence[Row]) -> Mapping[str, Values]:
        requests = (
            [request(part, self._fields) for part in _parts(rows)] if self._ragged else [request(rows, self._fields)]
        )
        feed = collect(requests, self._fields) if self._ragged else requests[0]
        computed = self._session.run([output.name for output in self._outputs], feed)
        return {
            output.name: self._rows(output, values, requests)
            for output, values in zip(self._outputs, computed, strict=True)
        }

    def _rows(self, output: Output, values: Array, requests: Sequence[Tensors]) -> Values:
        if output.per == "token" and self._ragged:
            scattered = scatter(values, [tensors[text_field(self._fields).ids] for tensors in requests])
            return [row for part in scattered for row in part]
        return [row for part in split(values, requests) for row in part]


def check_cuda(available: Sequence[str], used: Sequence[str]) -> None:
    """Raise RuntimeError where ONNX Runtime was built for GPUs and takes none: it logs why, and computes on the CPU."""
    if CUDA in available and CUDA not in used:
        raise RuntimeError('CUDA did not start: install "onnxruntime-gpu[cuda,cudnn]" or, without a GPU, onnxruntime')


def cuda_options(fields: Sequence[Field]) -> dict[str, str]:
    """The CUDA options, here and at the server: onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html.

    A search for the fastest convolution would start again for every number of rows. Products of TF32 have 10 bits of
    mantissa, which for some rerankers is not fp32 and for positions is not enough. It is enough for images, and cuDNN
    has no convolution in fp16 without it. The arena keeps the default strategy: extended to the exact size of a request
    (kSameAsRequested), it grows with every batch larger than all before.
    """
    is_text = any(isinstance(field, Tokens) for field in fields)
    return {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0" if is_text else "1"}


def _providers(fields: Sequence[Field]) -> Sequence[str | tuple[str, Mapping[str, str]]]:
    """A GPU, where this build of ONNX Runtime takes one, and the CPU for what is left."""
    if CUDA not in ort.get_available_providers():
        return ["CPUExecutionProvider"]
    ort.preload_dlls()  # CUDA's, from NVIDIA's packages, which are on no path
    return [(CUDA, cuda_options(fields)), "CPUExecutionProvider"]


def _parts(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Rows in requests of 1, 2, 3, 1, 2, 3, ... rows, as clients would send them."""
    start, size = 0, 1
    while start < len(rows):
        yield rows[start : start + size]
        start, size = start + size, size % 3 + 1


def request(rows: Sequence[Row], fields: Sequence[Field]) -> Tensors:
    """The tensors of one request as the gateway sends them: ids padded to the longest row, INT64 [b, L]."""
    tensors: Tensors = {}
    for field, values in zip(fields, zip(*rows, strict=True), strict=True):
        tensors |= {name: array for name, array in field.feed(values).items() if name in field.inputs}
        if isinstance(field, Tokens):
            longest = max(1, *map(len, values))
            tensors[field.ids] = np.stack([np.pad(ids, (0, longest - len(ids))) for ids in values])
    return tensors


def collect(requests: Sequence[Tensors], fields: Sequence[Field]) -> Tensors:
    """Joins a batch of requests as Triton's collector does for the ONNX Runtime backend.

    A ragged input is each request's elements, row-major, one request behind the other, in one dimension;
    BATCH_ITEM_SHAPE_FLATTEN is the length of a row for every row, INT32; any other input is concatenated by rows
    (github.com/triton-inference-server/backend, src/backend_input_collector.cc).
    """
    feed: Tensors = {}
    for field in fields:
        for name in field.inputs:
            arrays = [tensors[name] for tensors in requests]
            if isinstance(field, Tokens) and name == field.ids:
                feed[name] = np.concatenate([array.reshape(-1) for array in arrays])
                lengths = [array.shape[1] for array in arrays for _ in range(array.shape[0])]
                feed[field.stride] = np.array(lengths, np.int32)
            else:
                feed[name] = np.concatenate(arrays)
    return feed


def scatter(output: Array, ids: Sequence[Array]) -> list[Array]:
    """Give each request the values of its ids, [b, L, ...], as BATCH_SCATTER_WITH_INPUT_SHAPE does.

    The output's values are one behind the other, in the order of the ids of all requests (src/backend_common.cc).
    """
    parts = np.split(output, np.cumsum([tensor.size for tensor in ids])[:-1])
    return [part.reshape(*tensor.shape, *output.shape[1:]) for part, tensor in zip(parts, ids, strict=True)]


def split(output: Array, requests: Sequence[Tensors]) -> list[Array]:
    """Give each request as many rows of the output as its first input has (src/backend_output_responder.cc)."""
    rows = [len(next(iter(tensors.values()))) for tensors in requests]
    return np.split(output, np.cumsum(rows)[:-1])
