"""The pipeline from sources to verified entries: load, trace, convert, verify, write."""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from export import config_pbtxt
from export.entry import PROOF, Proofs, fingerprint, hidden_files, versions
from export.errors import ExportError, ParityError, SourceError
from export.graphs import fp16, program, trace
from export.manifest import Backend, ModelSpec, Precision
from export.packing.memory import Attention
from export.plans import toolkit
from export.plans.build import build_plan, timing_cache
from export.sources.isolation import Progress
from export.sources.resolve import Sources
from export.tasks.load import load_towers
from export.tower import Tower
from export.verification import plan_inputs
from export.verification.choice import compare
from export.verification.parity import verify
from export.verification.tolerances import Parity, Speed

RUNTIME = Path(__file__).parent / "runtime"
RUNTIMES: Mapping[Backend, Sequence[str]] = {
    "python": ("engine", "streams", "packs", "cores"),
    "torch": ("torch_engine", "program", "operators", "inputs", "vision", "execution", "compiled", "freshness"),
}
"""The modules of RUNTIME that only the entries of one backend hold a copy of."""


def make(spec: ModelSpec, sources: Sources, scratch: Path, repository: Path, progress: Progress) -> Proofs:
    """Write the entries of a model into a scratch folder.

    Args:
        spec: the model's table.
        sources: what it is made of.
        scratch: the folder to write to.
        repository: the final folder of the entries; TensorRT's timing caches are stored beside it.
        progress: called with each stage.

    Raises:
        ExportError: a stage failed.
    """
    proofs = {
        tower.name: _write(spec, tower, scratch / tower.name, sources, progress) for tower in load_towers(spec, sources)
    }
    if spec.backend == "tensorrt" and toolkit.is_here():
        for name in proofs:
            _plan(scratch / name, repository, progress)
    progress(f"write {spec.name}")
    return proofs


def measure(spec: ModelSpec, sources: Sources, proofs: Proofs, repository: Path, progress: Progress) -> Proofs:
    """Verify built entries, and return their proofs with what is measured now."""
    measured = {}
    for tower in load_towers(spec, sources):
        proof = proofs[tower.name]
        built = replace(spec, backend=proof["backend"], precision=proof["precision"])
        graph = repository / tower.name / "1" / proof["files"][0]
        measured[tower.name] = proof | _verify(built, tower, graph, progress)
    return measured


def _write(spec: ModelSpec, tower: Tower, folder: Path, sources: Sources, progress: Progress) -> dict[str, Any]:
    """Write an entry and return its proof."""
    started = time.monotonic()
    version = folder / "1"
    chosen, graph, measured = _write_verified(spec, tower, version, progress)
    files = [graph.name, *sorted(file.name for file in version.iterdir() if file != graph)]
    _write_files(chosen, tower, folder, sources.main.revision)
    proof = {
        "fingerprint": fingerprint(spec),
        "source": spec.source,
        "revision": sources.revision,
        "backend": spec.backend,
        "precision": chosen.computes_in,
        "files": files,
        "versions": versions(),
        "packed": tower.packed,
        "outputs": {output.name: [*output.dims] for output in tower.outputs},
        **measured,
        "bytes": sum((version / name).stat().st_size for name in files),
        "seconds": round(time.monotonic() - started, 1),
    }
    (folder / PROOF).write_text(json.dumps(proof, indent=2) + "\n")
    for file in hidden_files(folder):  # onnx hides weights
        with suppress(OSError):  # some volumes have one mode for all files
            file.chmod(0o644)
    return proof


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A verified graph."""

    spec: ModelSpec
    """The model's table, with the graph's precision."""
    graph: Path
    measured: Mapping[str, Any]
    """The measured part of a proof."""


def _write_verified(
    spec: ModelSpec, tower: Tower, version: Path, progress: Progress
) -> tuple[ModelSpec, Path, dict[str, Any]]:
    """Write the graph in the first precision that is exact enough for this model; for `auto`, in int8 if that pays.

    Returns:
        The table with this precision, the graph's file and the measured part of the proof, which has the reason against
        each other precision that was tried.
    """

    def attempt(precision: Precision, folder: str) -> _Attempt:
        """Write and verify. NFS cannot remove the folder as long as the engine reads its files, but can rename it."""
        tried = replace(spec, precision=precision)
        graph = write_graph(tried, tower, version.parent.with_name(f".{tower.name}-{folder}"), progress)
        return _Attempt(tried, graph, _verify(tried, tower, graph, progress))

    found: Mapping[str, Any] = {"parity": [], "speed": []}
    if spec.backend == "torch" and spec.precision != "fp32":
        # In fp32 first: rounding would hide what is wrong with the program.
        found = attempt("fp32", "exact").measured
    chosen, rejected = _first_exact(_precisions(spec, tower), attempt)
    more: dict[str, Any] = {}
    if spec.precision == "auto":
        try:
            quantized = attempt("int8", "int8")
            progress(f"compare {tower.name} in int8")
            trial = compare(tower, chosen.graph, chosen.spec.computes_in, quantized.graph)
        except (ParityError, SourceError) as exc:
            rejected["int8"] = str(exc)
        else:
            chosen, other = (quantized, chosen) if trial.takes_int8 else (chosen, quantized)
            rejected[other.spec.computes_in] = trial.reason
            more["trial"] = asdict(trial)
    version.parent.mkdir()
    chosen.graph.parent.rename(version)
    measured = {key: found[key] + chosen.measured[key] for key in found}
    return chosen.spec, version / chosen.graph.name, {"rejected": rejected, **more, **measured}


def _first_exact(
    precisions: Sequence[Precision], attempt: Callable[[Precision, str], _Attempt]
) -> tuple[_Attempt, dict[str, str]]:
    """The first attempt that is exact enough, and the reasons against those before."""
    rejected: dict[str, str] = {}
    for precision in precisions[:-1]:
        try:
            return attempt(precision, precision), rejected
        except (ParityError, SourceError) as exc:
            rejected[precision] = str(exc)
    return attempt(precisions[-1], precisions[-1]), rejected


def _precisions(spec: ModelSpec, tower: Tower) -> Sequence[Precision]:
    """The precisions to try, one after the other: the one that the table names, or those of the backend."""
    if spec.precision is not None and spec.precision != "auto":
        return (spec.precision,)
    if spec.backend == "torch":
        return ("bf16", "fp16", "fp32") if program.is_causal(tower) else ("fp16", "bf16", "fp32")
    return ("bf16", "fp32") if spec.backend == "python" else ("fp16", "fp32")


def write_graph(spec: ModelSpec, tower: Tower, version: Path, progress: Progress) -> Path:
    """Write the graph in the requested precision, alone in a new folder, and return its file."""
    version.mkdir(parents=True)
    progress(f"trace {tower.name}")
    if spec.backend == "torch":
        return program.write(tower, version, spec.computes_in)
    path = version / "model.onnx"
    trace.trace(tower, path, ragged=spec.backend != "tensorrt", slices=Attention.of(spec, tower).slices)
    if spec.computes_in == "fp16":
        progress(f"convert {tower.name} to fp16")
        fp16.convert(path)
    elif spec.computes_in == "int8":
        from export.graphs import int8  # noqa: PLC0415 - a host with a GPU may have no OpenVINO

        progress(f"quantize {tower.name}")
        return int8.quantize(tower, path)
    return path


def _write_files(spec: ModelSpec, tower: Tower, folder: Path, revision: str) -> None:
    """Write the other files of an entry: for Triton, the gateway, model.py and the TensorRT plan."""
    if spec.backend in RUNTIMES:
        shutil.copyfile(RUNTIME / "model.py", folder / "1" / "model.py")
        package = folder / "1" / "conch_runtime"
        package.mkdir()
        for name in ("__init__", "contract", "counts", "metrics", *RUNTIMES[spec.backend]):
            shutil.copyfile(RUNTIME / f"{name}.py", package / f"{name}.py")
    if spec.backend in {"tensorrt", "torch"}:
        plan_inputs.write(spec, tower, folder)
    if tower.vocabulary is not None:
        tower.vocabulary.tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.pbtxt").write_text(config_pbtxt.render(spec, tower, revision))
    (folder / "warmup").mkdir()
    for name, data in config_pbtxt.warmup(tower).items():
        (folder / "warmup" / name).write_bytes(data.tobytes())


def _verify(spec: ModelSpec, tower: Tower, path: Path, progress: Progress) -> dict[str, Any]:
    """The measured part of a proof."""
    found = []
    progress(f"verify {tower.name}")
    for one in verify(spec, tower, path):
        found.append(one)
        progress(f"verify {tower.name}")
    return {
        "parity": [asdict(one) for one in found if isinstance(one, Parity)],
        "speed": [asdict(one) for one in found if isinstance(one, Speed)],
    }


def _plan(folder: Path, repository: Path, progress: Progress) -> None:
    """Build and verify the plan of an entry before it is moved into the repository."""
    progress(f"plan {folder.name}")
    tensorrt = toolkit.find_toolkit()
    try:
        build_plan(folder, tensorrt, timing_cache(repository, tensorrt), progress)
    except ExportError as exc:
        raise type(exc)(f"[{folder.name}] {exc}") from exc
