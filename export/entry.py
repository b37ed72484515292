"""Builds what one table of the manifest becomes: an entry of the model repository or two, whole or not at all."""

import fcntl
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from export import plan, source, tensorrt
from export.errors import ExportError, NotBuiltError, ParityError
from export.manifest import ModelSpec

if TYPE_CHECKING:
    from export.tower import Tower

PROOF = "export.json"
SCRATCH = ".export-"
RUNTIME = ("model.py", "engine.py")
MODULES = ("numpy", "onnx", "onnxruntime", "openvino", "sentence_transformers", "torch", "transformers")
"""Of those that decide a graph and its numbers: a proof names the versions."""

Progress = Callable[[str], None]
"""Told of each stage before it begins, and again after each of its steps if it has some."""
Proofs = dict[str, dict[str, Any]]
"""By the names of entries."""
Run = Callable[[Callable[..., Any], Sequence[Any], Progress], Any]
"""Calls a function with arguments, of which progress is the last."""


def here(function: Callable[..., Any], arguments: Sequence[Any], progress: Progress) -> Any:  # noqa: ANN401
    """Call a function in this process."""
    return function(*arguments, progress)


@dataclass(frozen=True, slots=True)
class Entry:
    """A built entry and its proof."""

    folder: Path
    proof: dict[str, Any]
    """The content of export.json."""


def fingerprint(spec: ModelSpec) -> str:
    """A hash of everything of ours that decides an entry's content: its table and the exporter itself."""
    digest = hashlib.sha256(msgspec.json.encode(spec))
    package = Path(__file__).parent
    for file in sorted(package.rglob("*")):
        if file.suffix in {".py", ".txt"}:
            digest.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Of the distributions that MODULES are from: onnxruntime comes with `onnxruntime-gpu` too."""
    distributions = importlib.metadata.packages_distributions()
    return {name: importlib.metadata.version(name) for module in MODULES for name in distributions[module]}


def is_built(spec: ModelSpec, repository: Path) -> bool:
    """Whether the repository holds this model, exported from this table, by this exporter, from these weights.

    Where there are TensorRT and a GPU, a model for TensorRT must also have a plan that fits them.
    What is on the hub is not looked up again: pin a `revision`, or force an export.
    """
    return all(_is_built(spec, repository / name) for name in spec.triton_names)


def _read_proof(folder: Path) -> dict[str, Any] | None:
    try:
        proof: dict[str, Any] = json.loads((folder / PROOF).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return proof


def _is_built(spec: ModelSpec, folder: Path) -> bool:
    proof = _read_proof(folder)
    return (
        proof is not None
        and proof.get("fingerprint") == fingerprint(spec)
        and (source.is_remote(spec) or proof["revision"] == source.revision(spec))
        and all((folder / "1" / name).is_file() for name in proof["files"])
        and (spec.backend != "tensorrt" or not tensorrt.is_here() or plan.is_current(folder, tensorrt.find_toolkit()))
    )


def build(spec: ModelSpec, repository: Path, progress: Progress, run: Run = here) -> list[Entry]:
    """Export, verify and write one model.

    Args:
        spec: its table.
        repository: the folder of entries; those of this model are replaced as a whole, once all are verified.
        progress: told of each stage before it begins.
        run: calls what reads the model, perhaps somewhere else, as `isolation.run` does.

    Raises:
        ExportError: with the stage's own sentence; the repository is as it was.
    """
    progress(f"load {spec.name}")
    source.fetch(spec)
    repository.mkdir(parents=True, exist_ok=True)
    with _scratch(repository) as scratch:
        proofs = run(_make, (spec, scratch, repository), progress)
        _replace(list(proofs), scratch, repository)
    return [Entry(repository / name, proof) for name, proof in proofs.items()]


def _make(spec: ModelSpec, scratch: Path, repository: Path, progress: Progress) -> Proofs:
    """Write the entries of a model into a folder that is not the repository yet."""
    towers, revision = _load(spec)
    proofs = {tower.name: _write(spec, tower, scratch / tower.name, revision, progress) for tower in towers}
    if spec.backend == "tensorrt":
        for name in proofs:
            progress(f"plan {name}")
            _plan(scratch / name, repository)
    progress(f"write {spec.name}")
    return proofs


def read_proofs(spec: ModelSpec, repository: Path) -> Proofs:
    """The proofs of a built model.

    Raises:
        NotBuiltError: it is not built.
    """
    proofs: Proofs = {}
    for name in spec.triton_names:
        proof = _read_proof(repository / name)
        if proof is None:
            raise NotBuiltError(f"[{spec.name}] {repository / name} is not built: run python -m export {spec.name}")
        proofs[name] = proof
    return proofs


def check(spec: ModelSpec, repository: Path, progress: Progress, run: Run = here) -> list[Entry]:
    """Verify a built model again: what it measures now, with the rest of its proof as it was.

    Takes what `build` does.

    Raises:
        ExportError: it is not built, or its numbers are not the reference's.
    """
    proofs = read_proofs(spec, repository)
    progress(f"load {spec.name}")
    source.fetch(spec)
    measured = run(_measure, (spec, proofs, repository), progress)
    return [Entry(repository / name, proof) for name, proof in measured.items()]


def _measure(spec: ModelSpec, proofs: Proofs, repository: Path, progress: Progress) -> Proofs:
    """Proofs with what is measured now."""
    towers, _ = _load(spec)
    measured = {}
    for tower in towers:
        proof = proofs[tower.name]
        built = msgspec.structs.replace(spec, backend=proof["backend"], precision=proof["precision"])
        graph = repository / tower.name / "1" / proof["files"][0]
        measured[tower.name] = proof | _verify(built, tower, graph, progress)
    return measured


def _load(spec: ModelSpec) -> "tuple[list[Tower], str]":
    # torch and transformers take seconds to import, and a model that is built needs neither.
    from export.tasks import TASKS  # noqa: PLC0415

    folder = source.resolve(spec).folder
    return TASKS[spec.task](spec, folder), source.revision(spec)


def _write(spec: ModelSpec, tower: "Tower", folder: Path, revision: str, progress: Progress) -> dict[str, Any]:
    """Write an entry and return its proof."""
    started = time.monotonic()
    version = folder / "1"
    version.mkdir(parents=True)
    graph = _graph(spec, tower, version / "model.onnx", progress)
    files = [graph.name, *sorted(file.name for file in version.iterdir() if file != graph)]
    settled, measured = _settle(spec, tower, graph, progress)
    _furnish(settled, tower, folder)
    proof = {
        "fingerprint": fingerprint(spec),
        "source": spec.source,
        "revision": revision,
        "backend": spec.backend,
        "precision": settled.computes_in,
        "files": files,
        "versions": versions(),
        "packed": tower.packed,
        **measured,
        "bytes": sum((version / name).stat().st_size for name in files),
        "seconds": round(time.monotonic() - started, 1),
    }
    (folder / PROOF).write_text(json.dumps(proof, indent=2) + "\n")
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o644)  # onnx keeps weights from other users, of whom Triton may be one
    return proof


def _graph(spec: ModelSpec, tower: "Tower", path: Path, progress: Progress) -> Path:
    """Write the graph in the precision asked for, and return its file."""
    from export import graph, half, quantise  # noqa: PLC0415
    from export.memory import Attention  # noqa: PLC0415

    progress(f"trace {tower.name}")
    graph.trace(tower, path, ragged=spec.backend != "tensorrt", slices=Attention.of(spec, tower).slices)
    if spec.computes_in == "fp16":
        progress(f"convert {tower.name} to fp16")
        half.convert(path)
    elif spec.computes_in == "int8":
        progress(f"quantise {tower.name}")
        return quantise.quantise(tower, path)
    return path


def _furnish(spec: ModelSpec, tower: "Tower", folder: Path) -> None:
    """Write what stands beside a graph: for Triton, for the gateway, for model.py and for the plan."""
    from export import config, planning  # noqa: PLC0415

    if spec.backend == "python":
        for name in RUNTIME:
            shutil.copy(Path(__file__).parent / "runtime" / name, folder / "1")
    if spec.backend == "tensorrt":
        planning.write(spec, tower, folder)
    if tower.vocabulary is not None:
        tower.vocabulary.tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.pbtxt").write_text(config.render(spec, tower))
    (folder / "warmup").mkdir()
    for name, data in config.warmup(tower).items():
        (folder / "warmup" / name).write_bytes(data.tobytes())


def _settle(spec: ModelSpec, tower: "Tower", path: Path, progress: Progress) -> tuple[ModelSpec, dict[str, Any]]:
    """Verify in the precision asked for; where none was, in fp32 if bf16 is not exact enough for this model."""
    try:
        return spec, _verify(spec, tower, path, progress)
    except ParityError as exc:
        if spec.precision is not None or spec.backend != "python":
            raise
        print(f"export: {tower.name} is served in fp32: {exc}")
    spec = msgspec.structs.replace(spec, precision="fp32")
    return spec, _verify(spec, tower, path, progress)


def _verify(spec: ModelSpec, tower: "Tower", path: Path, progress: Progress) -> dict[str, Any]:
    """The measured part of a proof."""
    from export import verify  # noqa: PLC0415

    found = []
    progress(f"verify {tower.name}")
    for one in verify.verify(spec, tower, path):
        found.append(one)
        progress(f"verify {tower.name}")
    return {
        "parity": [asdict(one) for one in found if isinstance(one, verify.Parity)],
        "speed": [asdict(one) for one in found if isinstance(one, verify.Speed)],
    }


def _plan(folder: Path, repository: Path) -> None:
    """Build and prove the plan of an entry on its way into the repository, or say where that is done."""
    if not tensorrt.is_here():
        print(f"export: {folder.name}: the plan is built by `python -m export.plan ENTRY` inside the serving image")
        return
    toolkit = tensorrt.find_toolkit()
    try:
        plan.build(folder, toolkit, plan.timing_cache(repository, toolkit))
    except ExportError as exc:
        raise type(exc)(f"[{folder.name}] {exc}") from exc


def _beside(repository: Path) -> Path:
    """Where to write what is then renamed into the repository: next to it, as Triton takes every folder in there for a
    model; or inside, if the repository is a volume of its own, or the folder that holds it is somebody else's.
    """
    parent = repository.resolve().parent
    is_one = parent.stat().st_dev == repository.stat().st_dev
    return parent if is_one and os.access(parent, os.W_OK) else repository


@contextmanager
def _scratch(repository: Path) -> Iterator[Path]:
    """A folder to write in, beside the repository, which is this export's alone meanwhile: others wait.

    What killed exports have left there is removed.
    """
    folder, name = _beside(repository), f"{SCRATCH}{repository.resolve().name}"
    with (folder / f"{name}.lock").open("w") as lock:  # a file: NFS locks no folders
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in folder.iterdir():
            if re.fullmatch(rf"{re.escape(name)}-\w{{8}}", left.name):  # as tempfile makes them
                shutil.rmtree(left)
        with tempfile.TemporaryDirectory(dir=folder, prefix=f"{name}-") as scratch:
            yield Path(scratch)


def _replace(names: Sequence[str], scratch: Path, repository: Path) -> None:
    """Put entries in the place of those of the same names; all of them, or after a failure none."""
    attic = scratch / "old"
    attic.mkdir()
    moved: list[str] = []
    try:
        for name in names:
            if (repository / name).exists():
                (repository / name).rename(attic / name)
            moved.append(name)
            (scratch / name).rename(repository / name)
    except OSError:
        for name in moved:
            if (repository / name).exists():
                (repository / name).rename(attic / f"new-{name}")
            if (attic / name).exists():
                (attic / name).rename(repository / name)
        raise
