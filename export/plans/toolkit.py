"""TensorRT on the GPU of this machine. No other module needs either of them."""

import contextlib
import ctypes
import importlib
import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError
from export.plans.gate import Inputs
from export.plans.measures import Vectors
from export.plans.profiles import PlanSpec, Shape

TRTEXEC_FOLDER = "/usr/src/tensorrt/bin"
"""The folder of trtexec in NVIDIA's images, which is not on their PATH."""


class PlanError(ExportError):
    """The plan could not be built or tried. Names the stage."""


class Toolkit(Protocol):
    """A way to TensorRT."""

    version: str
    """The version of TensorRT: major, minor and patch."""
    compute_capability: str
    """The compute capability of the GPU, such as "9.0"."""

    def build(self, graph: Path, spec: PlanSpec, plan: Path, timing_cache: Path) -> None:
        """Write the plan of a graph, computing in exactly the types that the graph names."""

    def run(self, plan: Path, feeds: Iterable[tuple[int, Inputs]]) -> Iterator[Mapping[str, Vectors]]:
        """The outputs for each feed by name, computed with the profile of its index."""


def is_here() -> bool:
    """Whether this machine has TensorRT and a GPU."""
    return (_has_package() or _trtexec() is not None) and shutil.which("nvidia-smi") is not None


def find_toolkit() -> Toolkit:
    """TensorRT's Python package if it is installed, else its trtexec.

    Raises:
        PlanError: neither is there, or no GPU is.
    """
    if _has_package():
        return Package(importlib.import_module("tensorrt"), _compute_capability())
    if binary := _trtexec():
        return Trtexec(binary, _compute_capability())
    raise PlanError("start: TensorRT is not installed: run this in the serving image, on a machine with a GPU")


def _has_package() -> bool:
    """Whether NVIDIA's Python package is installed."""
    return importlib.util.find_spec("tensorrt") is not None


def _trtexec() -> str | None:
    return shutil.which("trtexec") or shutil.which("trtexec", path=TRTEXEC_FOLDER)


def _compute_capability() -> str:
    """The compute capability of the first GPU."""
    try:
        listed = _call(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"], "start")
    except FileNotFoundError as exc:
        raise PlanError("start: no GPU found: run this on the machine that will serve") from exc
    return listed.split()[0]


class Trtexec:
    """TensorRT by its command, which the stock Triton image has."""

    def __init__(self, binary: str, compute_capability: str) -> None:
        self.binary = binary
        self.compute_capability = compute_capability
        banner = re.search(r"TensorRT v(\d+)(\d\d)(\d\d)\]", _call([binary, "--help"], "start"))
        if banner is None:
            raise PlanError(f"start: {binary} does not print its version")
        self.version = ".".join(str(int(part)) for part in banner.groups())

    def build(self, graph: Path, spec: PlanSpec, plan: Path, timing_cache: Path) -> None:
        _call(self.build_arguments(graph, spec, plan, timing_cache), "build")

    def build_arguments(self, graph: Path, spec: PlanSpec, plan: Path, timing_cache: Path) -> list[str]:
        """The command that builds a plan."""
        typed = ["--stronglyTyped"] if int(self.version.split(".")[0]) < 11 else []  # 11 knows nothing else
        arguments = [
            self.binary,
            f"--onnx={graph}",
            f"--saveEngine={plan}",
            *typed,
            "--noTF32",  # what is still in fp32 has a reason
            f"--memPoolSize=workspace:{spec.workspace_mib}",
            f"--timingCacheFile={timing_cache}",
            "--skipInference",
        ]
        for index, profile in enumerate(spec.profiles):
            arguments.append(f"--profile={index}")
            for bound in ("min", "opt", "max"):
                shapes = {name: getattr(ranges, bound) for name, ranges in profile.inputs.items()}
                arguments.append(f"--{bound}Shapes={format_shapes(shapes)}")
        return arguments

    def run(self, plan: Path, feeds: Iterable[tuple[int, Inputs]]) -> Iterator[Mapping[str, Vectors]]:
        output = plan.with_name("output.json")
        for index, inputs in feeds:
            for name, array in inputs.items():
                plan.with_name(name).write_bytes(array.tobytes())
            files = ",".join(f"{name}:{plan.with_name(name)}" for name in inputs)
            shapes = format_shapes({name: array.shape for name, array in inputs.items()})
            arguments = (f"--useProfile={index}", f"--shapes={shapes}", f"--loadInputs={files}")
            once = ("--iterations=1", "--warmUp=0", "--duration=0")
            _call([self.binary, f"--loadEngine={plan}", *arguments, *once, f"--exportOutput={output}"], "gate")
            # C++ writes nan and inf, which JSON does not know.
            tensors = json.loads(re.sub(r"-?\b(nan|inf)\b", "NaN", output.read_text()))
            yield {
                tensor["name"]: np.array(tensor["values"], np.float32).reshape(
                    [int(n) for n in tensor["dimensions"].split("x")]
                )
                for tensor in tensors
            }


class Package:  # pragma: needs a GPU
    """TensorRT by its Python package, 10 or 11."""

    def __init__(self, tensorrt: Any, compute_capability: str) -> None:  # noqa: ANN401 - no development machine has it
        self.trt = tensorrt
        self.compute_capability = compute_capability
        self.version = ".".join(tensorrt.__version__.split(".")[:3])
        self.logger = tensorrt.Logger(tensorrt.Logger.WARNING)

    def build(self, graph: Path, spec: PlanSpec, plan: Path, timing_cache: Path) -> None:
        builder = self.trt.Builder(self.logger)
        flag = getattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # 11 knows nothing else
        network = builder.create_network(0 if flag is None else 1 << int(flag))
        parser = self.trt.OnnxParser(network, self.logger)
        if not parser.parse_from_file(str(graph)):
            errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
            raise PlanError(f"build: TensorRT cannot read the graph: {errors}")
        config = self._config(builder, spec)
        cache = config.create_timing_cache(timing_cache.read_bytes() if timing_cache.is_file() else b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
        serialized = builder.build_serialized_network(network, config)
        if serialized is None:
            raise PlanError("build: TensorRT failed; see its log above")
        plan.write_bytes(serialized)
        if measured := config.get_timing_cache():  # None where the file was another GPU's
            with contextlib.suppress(OSError):  # the next build takes longer, no more
                timing_cache.write_bytes(measured.serialize())

    def _config(self, builder: Any, spec: PlanSpec) -> Any:  # noqa: ANN401
        config = builder.create_builder_config()
        config.clear_flag(self.trt.BuilderFlag.TF32)  # what is still in fp32 has a reason
        config.set_memory_pool_limit(self.trt.MemoryPoolType.WORKSPACE, spec.workspace_mib << 20)
        for profile in spec.profiles:
            shapes = builder.create_optimization_profile()
            for name, bounds in profile.inputs.items():
                shapes.set_shape(name, *bounds)
            config.add_optimization_profile(shapes)
        return config

    def run(self, plan: Path, feeds: Iterable[tuple[int, Inputs]]) -> Iterator[Mapping[str, NDArray[Any]]]:
        gpu = Gpu()
        runtime = self.trt.Runtime(self.logger)
        engine = runtime.deserialize_cuda_engine(plan.read_bytes())
        context = engine and engine.create_execution_context()
        if not context:
            raise PlanError("gate: TensorRT cannot load its own plan; see its log above")
        tensors = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        names = [tensor for tensor in tensors if engine.get_tensor_mode(tensor) == self.trt.TensorIOMode.OUTPUT]
        for index, inputs in feeds:
            with gpu.memory() as upload:
                context.set_optimization_profile_async(index, 0)
                for tensor, array in inputs.items():
                    context.set_input_shape(tensor, array.shape)
                    context.set_tensor_address(tensor, upload(array))
                outputs = {
                    name: np.empty(
                        tuple(context.get_tensor_shape(name)), self.trt.nptype(engine.get_tensor_dtype(name))
                    )
                    for name in names
                }
                addresses = {name: upload(output) for name, output in outputs.items()}
                for name, address in addresses.items():
                    context.set_tensor_address(name, address)
                if not context.execute_async_v3(0):
                    raise PlanError(f"gate: TensorRT failed with profile {index}; see its log above")
                for name, address in addresses.items():
                    gpu.download(address, outputs[name])
            yield outputs


class Gpu:  # pragma: needs a GPU
    """The part of CUDA's runtime library that verification needs. All work is on the default stream, so copies wait."""

    def __init__(self) -> None:
        for name in ("libcudart.so.13", "libcudart.so.12", "libcudart.so"):
            with contextlib.suppress(OSError):
                self.library = ctypes.CDLL(name)
                return
        raise PlanError("gate: CUDA's libcudart is not installed: run this in the serving image")

    @contextlib.contextmanager
    def memory(self) -> Iterator[Callable[[NDArray[Any]], int]]:
        """Give out a function that copies an array to the GPU and returns its address there, until the block ends."""
        with contextlib.ExitStack() as taken:

            def upload(array: NDArray[Any]) -> int:
                array = np.ascontiguousarray(array)
                pointer, size = ctypes.c_void_p(), ctypes.c_size_t(array.nbytes)
                self._call("cudaMalloc", ctypes.byref(pointer), size)
                taken.callback(self._call, "cudaFree", pointer)
                self._call("cudaMemcpy", pointer, array.ctypes.data_as(ctypes.c_void_p), size, 1)
                return pointer.value or 0

            yield upload

    def download(self, address: int, array: NDArray[np.generic]) -> None:
        """Copy from the GPU into `array`."""
        target, source = array.ctypes.data_as(ctypes.c_void_p), ctypes.c_void_p(address)
        self._call("cudaMemcpy", target, source, ctypes.c_size_t(array.nbytes), 2)

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self.library, name)(*arguments)
        if status:
            raise PlanError(f"gate: {name} failed with CUDA's error {status}")


def format_shapes(shapes: Mapping[str, Shape]) -> str:
    """Shapes in trtexec's notation, such as "input_ids:2x32,length:2x1"."""
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())


def _call(arguments: Sequence[str], stage: str) -> str:
    """The output of a command, which must be there and succeed."""
    done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)  # noqa: S603
    if done.returncode:
        lines = done.stdout.strip().splitlines()
        errors = [line for line in lines if "[E]" in line] or lines[-1:]
        raise PlanError(f"{stage}: {Path(arguments[0]).name} failed: {' '.join(errors)}")
    return done.stdout
