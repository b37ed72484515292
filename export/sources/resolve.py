"""Finds the folder of a source: in a Python package, on this machine or on the hub."""

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from export.errors import SourceError
from export.manifest import ModelSpec
from export.sources import untrusted

PACKAGE = "package:"
DESCRIPTION = ("*.json", "*.jinja", "artifact.metadata", "README.md")
"""The files that say what a model is."""


@dataclass(frozen=True, slots=True)
class Source:
    """A sentence-transformers or transformers folder on this machine."""

    folder: Path
    revision: str
    """The version of the source: a package's version, a hub commit or, for a local folder, a
    hash of its files' names, sizes and times."""


@dataclass(frozen=True, slots=True)
class Sources:
    """All that a model is made of."""

    main: Source
    image: Source | None = None
    """The image tower, if it has a source of its own."""

    @property
    def folder(self) -> Path:
        """The folder of the model, or of its text tower."""
        return self.main.folder

    @property
    def image_folder(self) -> Path | None:
        """The folder of the image tower, if it has one of its own."""
        return None if self.image is None else self.image.folder

    @property
    def revision(self) -> str:
        """Tells this state of all sources from another."""
        return " ".join(source.revision for source in (self.main, self.image) if source is not None)


def resolve(spec: ModelSpec) -> Sources:
    """Find a model's folders, download those that are on the hub and not in the cache, and inspect their files.

    Raises:
        SourceError: a folder is missing, its weights are neither in safetensors nor, where the table allows it, in a
            pickle, which runs code when it is read, or `untrusted.inspect` refuses it.
    """
    main = _resolve(spec, "source", spec.source)
    return Sources(main, None if spec.image_source is None else _resolve(spec, "image_source", spec.image_source))


def describe(spec: ModelSpec) -> Source:
    """Find the folder of what describes a model, its JSON files and its card: nothing else is downloaded from the hub.

    Raises:
        SourceError: it is not there, or `untrusted.files` refuses it.
    """
    found = _locate(spec, "source", spec.source, DESCRIPTION)
    untrusted.files(spec, "source", found.folder)
    return found


def is_remote(spec: ModelSpec) -> bool:
    """Whether finding the sources may ask the hub."""
    return not all(where.startswith((PACKAGE, "/")) for where in (spec.source, spec.image_source or "/"))


def revision(spec: ModelSpec) -> str:
    """The value of `resolve(spec).revision`, without reading any file."""
    places = [("source", spec.source), ("image_source", spec.image_source)]
    return " ".join(_locate(spec, key, where, _files(spec)).revision for key, where in places if where is not None)


def _resolve(spec: ModelSpec, key: str, where: str) -> Source:
    source = _locate(spec, key, where, _files(spec))
    # Without config.json: an embedding model whose modules lie in folders of their own.
    if not any((source.folder / name).is_file() for name in ("config.json", "modules.json")):
        if (source.folder / "adapter_config.json").is_file():
            raise SourceError(f"[{spec.name}] {key}: {where} holds an adapter without its base model; merge them")
        raise SourceError(f"[{spec.name}] {key}: {where} holds no config.json")
    files = untrusted.inspect(spec, key, source.folder)
    if any(file.endswith(".safetensors") for file in files):
        return source
    if not any(file.endswith(".bin") for file in files):
        raise SourceError(f"[{spec.name}] {key}: {where} holds no weights (*.safetensors)")
    if not spec.allow_pickle:
        raise SourceError(f"[{spec.name}] {key}: {where} has its weights in a pickle (*.bin), {untrusted.PICKLE}")
    return source


def _files(spec: ModelSpec) -> tuple[str, ...]:
    """The patterns of files that an export reads from the hub."""
    pickles = ("*.bin",) if spec.allow_pickle else ()
    code = ("*.py",) if spec.allow_remote_code else ()
    return (*DESCRIPTION, "*.safetensors", "*.txt", "*.model", *untrusted.TENSORS, *pickles, *code)


def _locate(spec: ModelSpec, key: str, where: str, kinds: Sequence[str]) -> Source:
    if where.startswith(PACKAGE):
        package, _, folder = where.removeprefix(PACKAGE).partition("/")
        found = importlib.util.find_spec(package) if package.isidentifier() else None
        if found is None or not found.submodule_search_locations:
            raise SourceError(f"[{spec.name}] {key}: the Python package {package} is not installed")
        return Source(Path(found.submodule_search_locations[0]) / folder, importlib.metadata.version(package))
    if where.startswith("/"):
        return Source(Path(where), _state(Path(where)))
    return _hub(spec, key, where, kinds)


def _state(folder: Path) -> str:
    files = sorted((file, file.stat()) for file in folder.rglob("*") if file.is_file())
    listing = "\n".join(f"{file.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}" for file, stat in files)
    return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _hub(spec: ModelSpec, key: str, where: str, kinds: Sequence[str]) -> Source:
    # Imported here: it takes a second, and local models do not need it.
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import (  # noqa: PLC0415
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        revision = spec.revision if key == "source" else spec.image_revision
        folder = Path(
            snapshot_download(
                where, revision=revision, allow_patterns=list(kinds), ignore_patterns=["onnx/*", "openvino/*"]
            )
        )
    except RevisionNotFoundError as exc:
        raise SourceError(
            f"[{spec.name}] {key.replace('source', 'revision')}: {where} has no branch, tag or commit {revision!r}"
        ) from exc
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as exc:
        at = f" at revision {revision!r}" if revision else ""
        raise SourceError(
            f"[{spec.name}] {key}: {where}{at} is neither on the hub nor in its cache; a local folder starts with"
            f" ./ or / ({exc})"
        ) from exc
    return Source(folder, folder.name)  # the cache names a snapshot's folder after its commit
