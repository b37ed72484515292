"""Builds one entry of the model repository, whole or not at all."""

import hashlib
import importlib.metadata
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from export import source
from export.manifest import ModelSpec

PROOF = "export.json"
RUNTIME = ("model.py", "engine.py")
VERSIONS = ("openvino", "sentence-transformers", "torch", "transformers")

Progress = Callable[[str], None]


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


def is_built(spec: ModelSpec, repository: Path) -> bool:
    """Whether the repository holds this model, exported from this table, by this exporter, from these weights.

    What is on the hub is not looked up again: pin a `revision`, or force an export.
    """
    folder = repository / spec.name
    try:
        proof = json.loads((folder / PROOF).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return (
        proof.get("fingerprint") == fingerprint(spec)
        and (source.is_remote(spec) or proof["revision"] == source.resolve(spec).revision)
        and (folder / "1" / "model.onnx").is_file()
    )


def build(spec: ModelSpec, repository: Path, progress: Progress) -> Entry:
    """Export, verify and write one model.

    Args:
        spec: its table.
        repository: the folder of entries; this one is replaced as a whole, once it is verified.
        progress: told of each stage before it begins.

    Raises:
        ExportError: with the stage's own sentence; the repository is as it was.
    """
    # torch and transformers take seconds to import, and a model that is built needs neither.
    from export import config, graph, tower, verify  # noqa: PLC0415
    from export.tasks import TASKS  # noqa: PLC0415

    started = time.monotonic()
    progress("load")
    origin = source.resolve(spec)
    text_tower = tower.load(spec, origin.folder)
    repository.mkdir(parents=True, exist_ok=True)
    # Beside the repository, not inside: Triton takes every folder in there for a model.
    with tempfile.TemporaryDirectory(dir=repository.parent, prefix=".export-") as scratch:
        folder = Path(scratch) / spec.name
        version = folder / "1"
        version.mkdir(parents=True)
        progress("trace")
        graph.trace(TASKS[spec.task], text_tower, version / "model.onnx")
        progress("verify")
        parities = list(verify.verify(spec.task, text_tower, version / "model.onnx", precisions=("f32", None)))
        progress("write")
        for name in RUNTIME:
            shutil.copy(Path(__file__).parent / "runtime" / name, version)
        text_tower.tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "config.pbtxt").write_text(config.render(spec, text_tower))
        (folder / "warmup").mkdir()
        for name, data in config.warmup(spec, text_tower).items():
            (folder / "warmup" / name).write_bytes(data.tobytes())
        proof = {
            "fingerprint": fingerprint(spec),
            "source": spec.source,
            "revision": origin.revision,
            "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
            "parity": [asdict(parity) for parity in parities],
            "bytes": (version / "model.onnx").stat().st_size,
            "seconds": round(time.monotonic() - started, 1),
        }
        (folder / PROOF).write_text(json.dumps(proof, indent=2) + "\n")
        _replace(folder, repository / spec.name, Path(scratch) / "old")
    return Entry(repository / spec.name, proof)


def _replace(new: Path, target: Path, attic: Path) -> None:
    """Put `new` in the place of `target`, whose former content goes to the attic."""
    if target.exists():
        target.rename(attic)
    new.rename(target)
