"""`python -m export.plan ENTRY`: builds the TensorRT plan of an entry on the GPU that will serve it, and proves it.

A plan works with one version of TensorRT and one kind of GPU, so it is made where it runs: inside the serving image,
before the server starts. Needed are numpy and either TensorRT's Python package or its `trtexec`. What the export wrote
into the entry says what to build (plan.json, model.onnx) and what must come out (parity.npz).
"""

import argparse
import contextlib
import ctypes
import importlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError, ParityError
from export.profiles import COSINE, PlanSpec, Profile, Shape, cache_key, graph_hash, read_spec

TRTEXEC_FOLDER = "/usr/src/tensorrt/bin"
"""Where NVIDIA's images keep it; it is not on their PATH."""
SPEC = "plan.json"
CASES = "parity.npz"
EXPECTED = "expected"

Vectors = NDArray[np.float32]


class PlanError(ExportError):
    """The plan could not be built or tried. Names the stage."""


@dataclass(frozen=True, slots=True)
class Case:
    """One batch and what must come out of it."""

    inputs: Mapping[str, NDArray[np.generic]]
    """All inputs of the graph by name."""
    expected: Vectors
    """The reference's output, [b, width]."""

    @property
    def shapes(self) -> dict[str, Shape]:
        """Of the inputs."""
        return {name: array.shape for name, array in self.inputs.items()}


@dataclass(frozen=True, slots=True)
class Key:
    """plan.key: what a plan was built from."""

    tensorrt: str
    compute_capability: str
    graph: str
    """SHA-256."""
    profiles: tuple[Profile, ...]

    def to_json(self) -> dict[str, Any]:
        """The content of the file: the parts, and their hash."""
        key = cache_key(self.tensorrt, self.compute_capability, self.graph, self.profiles)
        content: dict[str, Any] = json.loads(json.dumps({"key": key, **asdict(self)}))
        return content


class Toolkit(Protocol):
    """A way to TensorRT."""

    version: str
    """Major, minor and patch."""

    def build(self, graph: Path, spec: PlanSpec, plan: Path, timing_cache: Path) -> None:
        """Write the plan of a graph, computing in exactly the types that the graph names."""

    def run(self, plan: Path, feeds: Iterable[tuple[int, Case]]) -> Iterator[Vectors]:
        """The output for each case, computed with the profile of the given index."""


def main() -> int:
    """Run the command; the exit code is 1 where there is no plan that may be served."""
    parser = argparse.ArgumentParser(prog="python -m export.plan", description=__doc__)
    parser.add_argument("entry", type=Path, metavar="ENTRY", help="an entry's folder in the model repository")
    help_cache = "measured times of kernels, kept from build to build; by default beside the repository"
    parser.add_argument("--timing-cache", type=Path, metavar="FILE", help=help_cache)
    arguments = parser.parse_args()
    folder = arguments.entry.resolve()
    try:
        build(folder, find_toolkit(), compute_capability(), arguments.timing_cache)
    except ExportError as exc:
        print(f"plan: {folder.name}: {exc}", file=sys.stderr)
        return 1
    return 0


def build(folder: Path, toolkit: Toolkit, capability: str, timing_cache: Path | None = None) -> None:
    """Make sure that an entry has a plan that fits and is proven.

    Args:
        folder: the entry's.
        toolkit: TensorRT.
        capability: of the GPU, as "9.0".
        timing_cache: by default a file beside the repository.

    Raises:
        ExportError: with the stage; the entry has no plan then.
    """
    version = folder / "1"
    graph, plan, key_file = version / "model.onnx", version / "model.plan", version / "plan.key"
    try:
        spec, cases = read_spec(folder / SPEC), read_cases(folder / CASES)
        key = Key(toolkit.version, capability, graph_hash(graph), spec.profiles).to_json()
    except FileNotFoundError as exc:
        raise PlanError(f"read: {exc.filename} is missing: export the entry for TensorRT first") from exc
    reason = staleness(key_file, key) if plan.is_file() else "there is no plan yet"
    if reason is None:
        print(f"plan: {folder.name}: up to date")
        return
    print(f"plan: {folder.name}: {reason}: building {len(spec.profiles)} profiles, for minutes", flush=True)
    key_file.unlink(missing_ok=True)
    plan.unlink(missing_ok=True)
    indices = assign(spec.profiles, cases)
    repository = folder.parent
    cache = timing_cache or repository.with_name(f"{repository.name}.tensorrt-{toolkit.version}.cache")
    # In the entry, from where it moves at once; Triton looks into folders named by a number only.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".plan-") as scratch:
        fresh = Path(scratch) / plan.name
        toolkit.build(graph, spec, fresh, cache)
        value = prove(spec, cases, indices, toolkit.run(fresh, zip(indices, cases, strict=True)))
        fresh.replace(plan)
    key_file.write_text(json.dumps(key, indent=2) + "\n")
    print(f"plan: {folder.name}: built, {spec.measure} {spec.tolerance:g}, measured {value:.6f}")


def staleness(key_file: Path, key: Mapping[str, Any]) -> str | None:
    """Why a plan with this key file must be built anew, or None where it has the given key."""
    try:
        old = json.loads(key_file.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return "it is not known what the plan was built from"
    if old.get("key") == key["key"]:
        return None
    reasons = [
        f"{what} was {old.get(part)} and is {key[part]}"
        for part, what in (("tensorrt", "TensorRT"), ("compute_capability", "the GPU's compute capability"))
        if old.get(part) != key[part]
    ]
    reasons += [f"the {part} changed" for part in ("graph", "profiles") if old.get(part) != key[part]]
    return " and ".join(reasons) or "the key's form changed"


def assign(profiles: Sequence[Profile], cases: Sequence[Case]) -> list[int]:
    """The profile to run each case with.

    Raises:
        PlanError: a case fits no profile, or a profile, whose kernels are its own, has no case.
    """
    indices = []
    for case in cases:
        fitting = [index for index, profile in enumerate(profiles) if profile.admits(case.shapes)]
        if not fitting:
            raise PlanError(f"read: no profile of {SPEC} takes {_spec(case.shapes)} of {CASES}")
        indices.append(fitting[0])
    if untried := set(range(len(profiles))) - set(indices):
        raise PlanError(f"read: no case of {CASES} tries profile {min(untried)} of {SPEC}")
    return indices


def prove(spec: PlanSpec, cases: Sequence[Case], indices: Sequence[int], outputs: Iterable[Vectors]) -> float:
    """Hold the outputs against the reference.

    Returns:
        The measure of the worst case.

    Raises:
        ParityError: a case is beyond the tolerance.
    """
    values = []
    for case, index, output in zip(cases, indices, outputs, strict=True):
        value = _measured(spec.measure, case.expected, output)
        # NaN is never within it.
        if not (value >= spec.tolerance if spec.measure == COSINE else value <= spec.tolerance):
            raise ParityError(
                f"gate: profile {index} with {_spec(case.shapes)}: measured {value:.6f}, where"
                f" {spec.measure} {spec.tolerance:g} was due"
            )
        values.append(value)
    return min(values) if spec.measure == COSINE else max(values)


def _measured(measure: str, expected: Vectors, actual: Vectors) -> float:
    if actual.shape != expected.shape:
        return float("nan")
    if measure == COSINE:
        norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(actual, axis=1)
        return float(((expected * actual).sum(1) / norms).min())
    return float(np.abs(expected - actual).max())


def save_cases(path: Path, cases: Sequence[Case]) -> None:
    """Write parity.npz: the arrays of case 0 are named `0/<input>` and `0/expected`, and so on."""
    arrays = {
        f"{i}/{name}": array
        for i, case in enumerate(cases)
        for name, array in (*case.inputs.items(), (EXPECTED, case.expected))
    }
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its one named argument is not among them


def read_cases(path: Path) -> list[Case]:
    """Read what `save_cases` wrote."""
    cases: dict[int, dict[str, NDArray[np.generic]]] = {}
    with np.load(path) as arrays:
        for key in arrays.files:
            number, _, name = key.partition("/")
            cases.setdefault(int(number), {})[name] = arrays[key]
    return [Case(arrays, arrays.pop(EXPECTED).astype(np.float32)) for _, arrays in sorted(cases.items())]


def compute_capability() -> str:
    """Of the first GPU, as "9.0".

    Raises:
        PlanError: there is none.
    """
    try:
        listed = _call(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"], "start")
    except FileNotFoundError as exc:
        raise PlanError("start: there is no GPU here: run this on the machine that will serve") from exc
    return listed.split()[0]


def find_toolkit() -> Toolkit:
    """TensorRT's Python package if it is installed, else its trtexec.

    Raises:
        PlanError: neither is there.
    """
    if importlib.util.find_spec("tensorrt"):
        return Package(importlib.import_module("tensorrt"))
    binary = shutil.which("trtexec") or shutil.which("trtexec", path=TRTEXEC_FOLDER)
    if binary is None:
        raise PlanError("start: TensorRT is not here: run this inside the serving image, on a machine with a GPU")
    return Trtexec(binary)


class Trtexec:
    """TensorRT by its command, which the stock Triton image has."""

    def __init__(self, binary: str) -> None:
        self.binary = binary
        banner = re.search(r"TensorRT v(\d+)(\d\d)(\d\d)\]", _call([binary, "--help"], "start"))
        if banner is None:
            raise PlanError(f"start: {binary} does not say its version")
        self.version = ".".join(str(int(part)) for part in banner.groups())

    def build(self, graph: Path, spec: PlanSpec, plan: Path, timing_cache: Path) -> None:  # noqa: D102
        _call(self.build_arguments(graph, spec, plan, timing_cache), "build")

    def build_arguments(self, graph: Path, spec: PlanSpec, plan: Path, timing_cache: Path) -> list[str]:
        """The command that builds a plan."""
        typed = ["--stronglyTyped"] if int(self.version.split(".")[0]) < 11 else []  # 11 knows nothing else
        return [
            self.binary,
            f"--onnx={graph}",
            f"--saveEngine={plan}",
            *typed,
            "--noTF32",  # what is still in fp32 has a reason
            f"--memPoolSize=workspace:{spec.workspace_mib}",
            f"--timingCacheFile={timing_cache}",
            "--skipInference",
            *(
                argument
                for index, profile in enumerate(spec.profiles)
                for argument in (
                    f"--profile={index}",
                    *(
                        f"--{bound}Shapes={_spec({name: getattr(s, bound) for name, s in profile.inputs.items()})}"
                        for bound in ("min", "opt", "max")
                    ),
                )
            ),
        ]

    def run(self, plan: Path, feeds: Iterable[tuple[int, Case]]) -> Iterator[Vectors]:  # noqa: D102
        output = plan.with_name("output.json")
        for index, case in feeds:
            for name, array in case.inputs.items():
                plan.with_name(name).write_bytes(array.tobytes())
            files = ",".join(f"{name}:{plan.with_name(name)}" for name in case.inputs)
            once = ("--iterations=1", "--warmUp=0", "--duration=0")
            arguments = (f"--useProfile={index}", f"--shapes={_spec(case.shapes)}", f"--loadInputs={files}")
            _call([self.binary, f"--loadEngine={plan}", *arguments, *once, f"--exportOutput={output}"], "gate")
            # C++ writes nan and inf, which JSON does not know.
            (tensor,) = json.loads(re.sub(r"-?\b(nan|inf)\b", "NaN", output.read_text()))
            yield np.array(tensor["values"], np.float32).reshape([int(n) for n in tensor["dimensions"].split("x")])


class Package:
    """TensorRT by its Python package, 10 or 11."""

    def __init__(self, tensorrt: Any) -> None:  # noqa: ANN401 - a module that no development machine has
        self.trt = tensorrt
        self.version = ".".join(tensorrt.__version__.split(".")[:3])
        self.logger = tensorrt.Logger(tensorrt.Logger.WARNING)

    def build(self, graph: Path, spec: PlanSpec, plan: Path, timing_cache: Path) -> None:  # noqa: D102
        trt = self.trt
        builder = trt.Builder(self.logger)
        flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # 11 knows nothing else
        network = builder.create_network(0 if flag is None else 1 << int(flag))
        parser = trt.OnnxParser(network, self.logger)
        if not parser.parse_from_file(str(graph)):
            errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
            raise PlanError(f"build: TensorRT cannot read the graph: {errors}")
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)  # what is still in fp32 has a reason
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, spec.workspace_mib << 20)
        known = timing_cache.read_bytes() if timing_cache.is_file() else b""
        cache = config.create_timing_cache(known)
        config.set_timing_cache(cache, ignore_mismatch=False)
        for profile in spec.profiles:
            shapes = builder.create_optimization_profile()
            for name, bounds in profile.inputs.items():
                shapes.set_shape(name, *bounds)
            config.add_optimization_profile(shapes)
        serialized = builder.build_serialized_network(network, config)
        if serialized is None:
            raise PlanError("build: TensorRT failed; its log above says why")
        plan.write_bytes(serialized)
        if measured := config.get_timing_cache():  # None where the file was another GPU's
            with contextlib.suppress(OSError):  # the next build takes longer, no more
                timing_cache.write_bytes(measured.serialize())

    def run(self, plan: Path, feeds: Iterable[tuple[int, Case]]) -> Iterator[Vectors]:  # noqa: D102
        trt, gpu = self.trt, Gpu()
        runtime = trt.Runtime(self.logger)
        engine = runtime.deserialize_cuda_engine(plan.read_bytes())
        context = engine and engine.create_execution_context()
        if not context:
            raise PlanError("gate: TensorRT cannot load its own plan; its log above says why")
        tensors = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        (name,) = (tensor for tensor in tensors if engine.get_tensor_mode(tensor) == trt.TensorIOMode.OUTPUT)
        for index, case in feeds:
            with gpu.memory() as upload:
                context.set_optimization_profile_async(index, 0)
                for tensor, array in case.inputs.items():
                    context.set_input_shape(tensor, array.shape)
                    context.set_tensor_address(tensor, upload(array))
                output = np.empty(tuple(context.get_tensor_shape(name)), np.float32)
                address = upload(output)
                context.set_tensor_address(name, address)
                if not context.execute_async_v3(0):
                    raise PlanError(f"gate: TensorRT failed on {_spec(case.shapes)}; its log above says why")
                gpu.download(address, output)
            yield output


class Gpu:
    """As much of CUDA's runtime library as the gate needs. Everything is on the default stream, so copies wait."""

    def __init__(self) -> None:
        for name in ("libcudart.so.13", "libcudart.so.12", "libcudart.so"):
            with contextlib.suppress(OSError):
                self.library = ctypes.CDLL(name)
                return
        raise PlanError("gate: CUDA's libcudart is not here: run this inside the serving image")

    @contextlib.contextmanager
    def memory(self) -> Iterator[Any]:
        """Give out a function that copies an array to the GPU and returns its address there, until the block ends."""
        taken: list[int] = []

        def upload(array: NDArray[np.generic]) -> int:
            array = np.ascontiguousarray(array)
            pointer = ctypes.c_void_p()
            self._call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(array.nbytes))
            address = pointer.value or 0
            taken.append(address)
            self._call("cudaMemcpy", pointer, array.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(array.nbytes), 1)
            return address

        try:
            yield upload
        finally:
            for address in taken:
                self._call("cudaFree", ctypes.c_void_p(address))

    def download(self, address: int, array: NDArray[np.generic]) -> None:
        """Copy from the GPU into `array`."""
        target, source = array.ctypes.data_as(ctypes.c_void_p), ctypes.c_void_p(address)
        self._call("cudaMemcpy", target, source, ctypes.c_size_t(array.nbytes), 2)

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self.library, name)(*arguments)
        if status:
            raise PlanError(f"gate: {name} failed with CUDA's error {status}")


def _spec(shapes: Mapping[str, Shape]) -> str:
    """As trtexec writes shapes: "input_ids:2x32,length:2x1"."""
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())


def _call(arguments: Sequence[str], stage: str) -> str:
    """The output of a command.

    Raises:
        FileNotFoundError: there is no such command.
        PlanError: it failed.
    """
    done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)  # noqa: S603
    if done.returncode:
        lines = done.stdout.strip().splitlines()
        errors = [line for line in lines if "[E]" in line] or lines[-1:]
        raise PlanError(f"{stage}: {Path(arguments[0]).name} failed: {' '.join(errors)}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
