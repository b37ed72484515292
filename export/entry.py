"""An entry of the model repository: its proof, and whether it is up to date."""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from export.errors import NotBuiltError
from export.manifest import ModelSpec
from export.plans import toolkit
from export.plans.build import is_current
from export.sources.resolve import is_remote, revision

PROOF = "export.json"
MODULES = ("numpy", "onnx", "onnxruntime", "openvino", "sentence_transformers", "torch", "transformers")
"""The modules that determine a graph and its outputs. A proof records their versions."""
PARTS = (
    "config_pbtxt.py",
    "graphs",
    "loading",
    "packing",
    "pipeline.py",
    "plans/gate.py",
    "plans/measures.py",
    "plans/profiles.py",
    "rerankers.py",
    "runtime",
    "tasks",
    "tower.py",
    "verification",
)
"""The files and folders of this package that determine an entry. A change to others does not outdate entries."""
READABLE = 0o444
"""The mode bits of a file that every user can read, as Triton's user has to."""

Proofs = dict[str, dict[str, Any]]
"""The proofs of entries, by entry name."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A built entry and its proof."""

    folder: Path
    proof: dict[str, Any]
    """The content of export.json."""


def fingerprint(spec: ModelSpec, package: Path = Path(__file__).parent) -> str:
    """A hash of the model's table and of the code that makes entries."""
    digest = hashlib.sha256(msgspec.json.encode((spec, spec.computes_in)))
    for part in PARTS:
        files = [package / part] if part.endswith(".py") else (package / part).rglob("*")
        for file in sorted(file for file in files if file.suffix in {".py", ".txt"}):
            digest.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


@cache
def versions() -> Mapping[str, str]:
    """The versions of the distributions that provide MODULES, as far as they are installed.

    For onnxruntime this may be `onnxruntime-gpu`. To know, all installed distributions are read, which takes as long as
    the export of a small model.
    """
    distributions = importlib.metadata.packages_distributions()
    return {name: importlib.metadata.version(name) for module in MODULES for name in distributions.get(module, ())}


def is_built(spec: ModelSpec, repository: Path) -> bool:
    """Whether the repository holds this model, exported from this table, by this exporter, from these weights.

    Where there are TensorRT and a GPU, a model for TensorRT must also have a plan that fits them.
    The hub is not asked for a newer commit: pin a `revision`, or force an export.
    """
    return all(_is_built(spec, repository / name) for name in spec.triton_names)


def _is_built(spec: ModelSpec, folder: Path) -> bool:
    proof = _read_proof(folder)
    return (
        proof is not None
        and proof.get("fingerprint") == fingerprint(spec)
        and (is_remote(spec) or proof["revision"] == revision(spec))
        and _has_files(folder, proof)
        and (spec.backend != "tensorrt" or not toolkit.is_here() or is_current(folder, toolkit.find_toolkit()))
    )


def hidden_files(folder: Path) -> list[Path]:
    """The files of an entry that not every user can read."""
    return [file for file in folder.rglob("*") if file.is_file() and file.stat().st_mode & READABLE != READABLE]


def whole_entries(repository: Path) -> list[str]:
    """The names of the entries in a repository that have all their files, whichever export wrote them."""
    return [
        folder.name
        for folder in sorted(file.parent for file in repository.glob(f"*/{PROOF}"))
        if (proof := _read_proof(folder)) is not None and _has_files(folder, proof)
    ]


def _has_files(folder: Path, proof: dict[str, Any]) -> bool:
    files: list[str] = proof.get("files", [])
    return bool(files) and all((folder / "1" / name).is_file() for name in files)


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


def _read_proof(folder: Path) -> dict[str, Any] | None:
    try:
        proof: dict[str, Any] = json.loads((folder / PROOF).read_text())
    except (OSError, ValueError):
        return None
    return proof
