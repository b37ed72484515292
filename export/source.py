"""Where weights come from: a Python package, a local folder or the hub. Safetensors only."""

import hashlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from export.errors import SourceError
from export.manifest import ModelSpec

PACKAGE = "package:"


@dataclass(frozen=True, slots=True)
class Source:
    """A sentence-transformers or transformers folder on this machine."""

    folder: Path
    revision: str
    """What tells this state of the source from another: a package's version, a hub commit, or for a local folder a
    hash of its files' names, sizes and times."""


def resolve(spec: ModelSpec) -> Source:
    """Find the model's folder, downloading it first if it is on the hub and not in the cache.

    Raises:
        SourceError: it is not there, or its weights are not in safetensors (a pickle runs code when it is read).
    """
    source = _locate(spec)
    if not (source.folder / "config.json").is_file():
        raise SourceError(f"[{spec.name}] source: {spec.source} holds no config.json")
    if not any(source.folder.glob("*.safetensors")):
        raise SourceError(f"[{spec.name}] source: {spec.source} holds no *.safetensors weights")
    return source


def is_remote(spec: ModelSpec) -> bool:
    """Whether finding the source may ask the hub."""
    return not spec.source.startswith((PACKAGE, "/"))


def _locate(spec: ModelSpec) -> Source:
    if spec.source.startswith(PACKAGE):
        package, _, folder = spec.source.removeprefix(PACKAGE).partition("/")
        found = importlib.util.find_spec(package) if package.isidentifier() else None
        if found is None or not found.submodule_search_locations:
            raise SourceError(f"[{spec.name}] source: the Python package {package} is not installed")
        return Source(Path(found.submodule_search_locations[0]) / folder, importlib.metadata.version(package))
    if spec.source.startswith("/"):
        return Source(Path(spec.source), _state(Path(spec.source)))
    return _hub(spec)


def _state(folder: Path) -> str:
    files = sorted((file, file.stat()) for file in folder.rglob("*") if file.is_file())
    listing = "\n".join(f"{file.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}" for file, stat in files)
    return hashlib.sha256(listing.encode()).hexdigest()[:16]


def _hub(spec: ModelSpec) -> Source:
    # Imported here: it takes a second, and local models do not need it.
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        folder = Path(
            snapshot_download(
                spec.source,
                revision=spec.revision,
                allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*/config.json", "*/*.safetensors"],
                ignore_patterns=["onnx/*", "openvino/*"],
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as exc:
        raise SourceError(
            f"[{spec.name}] source: {spec.source} is not on the hub or in its cache; a local folder begins with ./ or /"
            f" ({exc})"
        ) from exc
    return Source(folder, folder.name)  # the cache names a snapshot's folder after its commit
