"""models.toml: which models to export, as data."""

import tomllib
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from export.errors import ManifestError

MANIFEST = Path(__file__).with_name("models.toml")

Task = Literal["text-embedding", "late-interaction"]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)]


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of the manifest."""

    name: Name
    """The table's name: what clients call the model, and the name of its Triton model."""
    task: Task
    source: Annotated[str, Meta(min_length=1)]
    revision: str | None = None
    """Branch, tag or commit, for sources on the hub."""
    default: bool = False
    aliases: tuple[Annotated[str, Meta(pattern=r"^[^,\s]+$")], ...] = ()
    licence: str | None = None
    max_tokens: Annotated[int, Meta(ge=8)] | None = None
    dimensions: tuple[Annotated[int, Meta(ge=1)], ...] = ()


def load(path: Path = MANIFEST) -> dict[str, ModelSpec]:
    """Read a manifest.

    Returns:
        The models by name, in the file's order.

    Raises:
        ManifestError: the file is missing or not TOML, a table has a wrong key or value, a name or alias is taken
            twice, or two models of one task are the default.
    """
    try:
        tables = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file") from None
    except tomllib.TOMLDecodeError as exc:
        raise ManifestError(f"{path.name}: {exc}") from exc
    specs = {name: _spec(path, name, table) for name, table in tables.items()}
    taken = Counter(name for spec in specs.values() for name in (spec.name, *spec.aliases))
    for name, count in taken.items():
        if count > 1:
            raise ManifestError(f"{path.name}: the name or alias {name!r} is taken {count} times")
    for task, count in Counter(spec.task for spec in specs.values() if spec.default).items():
        if count > 1:
            raise ManifestError(f"{path.name}: {count} models of task {task!r} have default = true")
    return specs


def _spec(path: Path, name: str, table: object) -> ModelSpec:
    if not isinstance(table, dict):
        raise ManifestError(f"{path.name}: {name} is not in a table")
    for key, value in table.items():
        if isinstance(value, dict):  # TOML takes a dot for a table in a table
            raise ManifestError(f'{path.name} [{name}.{key}]: a name with a dot goes in quotes: ["{name}.{key}"]')
        if key == "name":
            raise ManifestError(f"{path.name} [{name}]: Object contains unknown field `name`")
    try:
        spec = msgspec.convert({"name": name, **table}, ModelSpec)
    except msgspec.ValidationError as exc:
        raise ManifestError(f"{path.name} [{name}]: {exc}") from exc
    if spec.source.startswith("."):  # relative to the file, wherever the export is started
        spec = msgspec.structs.replace(spec, source=str((path.parent / spec.source).resolve()))
    return spec
