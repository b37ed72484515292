"""`python -m export add SOURCE`: writes the table of a model, from what its source says about itself."""

import argparse
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from export.errors import ManifestError
from export.manifest import FORMER_TASKS, MANIFEST, NAME, AskedPrecision, Backend, ModelSpec, Pooling, Task, load, parse
from export.sources import isolation
from export.sources.inspection import Finding, inspect
from export.sources.resolve import describe, is_remote

_ORDER = (
    "task",
    "source",
    "revision",
    "pooling",
    "prompts",
    "variants",
    "positive_class",
    "dimensions",
    "backend",
    "precision",
    "allow_pickle",
    "default",
    "aliases",
    "license",
)
"""The keys that a table may get, in the order in which they are written."""
_WIDEST = 120


@dataclass(frozen=True, slots=True)
class Addition:
    """A model to add."""

    spec: ModelSpec
    table: str
    """Its table, as TOML."""
    open: tuple[str, ...]
    """A sentence for each setting that could not be inferred."""


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments after `add`."""
    parser = argparse.ArgumentParser(
        prog="python -m export add",
        description="Add a model to the manifest, with the settings that its source declares, and build it.",
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="model on the Hugging Face hub, ./folder, /folder or package:name/folder"
    )
    parser.add_argument("--name", help="name of the model (default: the last part of SOURCE in lower case)")
    parser.add_argument("--task", type=lambda task: FORMER_TASKS.get(task, task), choices=get_args(Task))
    parser.add_argument("--pooling", choices=get_args(Pooling))
    parser.add_argument(
        "--positive-class", metavar="LABEL", help="label that means relevant, for classifiers of several classes"
    )
    parser.add_argument("--backend", choices=get_args(Backend))
    parser.add_argument("--precision", choices=get_args(AskedPrecision))
    parser.add_argument("--revision", help="branch, tag or commit on the hub; the manifest pins the commit")
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        default=None,
        help="allow weights in *.bin files, which can run code when they are loaded",
    )
    parser.add_argument(
        "--default", action="store_true", default=None, help="make it the default model of its endpoint"
    )
    add_paths(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the table without writing or building anything")
    isolation.add_options(parser)
    parser.set_defaults(check=False, force=False, url=None)
    return parser.parse_args(argv)


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the options for the manifest and the model repository."""
    parser.add_argument(
        "--manifest", type=Path, default=MANIFEST, help="file that describes the models (default: %(default)s)"
    )
    parser.add_argument(
        "--repository",
        type=Path,
        default=Path("model_repository"),
        help="folder of the model repository (default: %(default)s)",
    )


def prepare(arguments: argparse.Namespace) -> Addition:
    """Inspect a source, and make its table.

    Raises:
        ManifestError: the name is taken, options do not go together, or the manifest cannot be written.
        SourceError: the source is not there, no task serves it, or an option has to be given.
    """
    manifest: Path = arguments.manifest
    specs = load(manifest) if manifest.exists() else {}
    if not manifest.resolve().parent.is_dir():
        raise ManifestError(f"{manifest}: there is no folder {manifest.resolve().parent}")
    if not os.access(manifest.resolve().parent, os.W_OK):  # the file is replaced as a whole
        raise ManifestError(f"{manifest}: cannot be written; use a file of your own with --manifest")
    name = arguments.name or _name(arguments.source)
    if name in specs:
        raise ManifestError(f"{manifest.name} [{name}]: already exists; choose another name with --name")
    where = _absolute(arguments.source)
    draft = ModelSpec(name=name, task="text-embedding", source=where, revision=arguments.revision)
    found = describe(draft)
    given = {key: value for key in _ORDER if key != "source" and (value := getattr(arguments, key, None)) is not None}
    inspection = inspect(name, found.folder, given)
    keys = {**inspection.keys, **{key: Finding(value, "") for key, value in given.items()}}
    keys["source"] = Finding(_written(where, manifest), "")
    open_ = list(inspection.open)
    if is_remote(draft):
        keys["revision"] = Finding(found.revision, f"{arguments.revision or 'the default branch'} when it was added")
        alias = arguments.source
        owner = next((spec.name for spec in specs.values() if alias in (spec.name, *spec.aliases)), None)
        if owner is not None:
            open_.append(f"aliases: {alias} already means [{owner}]")
        elif alias != name:
            keys["aliases"] = Finding([alias], "")
    table = _table(name, {key: keys[key] for key in _ORDER if key in keys})
    return Addition(_joined(table, manifest)[1][name], table, tuple(open_))


def write(addition: Addition, manifest: Path) -> None:
    """Append a table to the manifest. The file is replaced atomically.

    Raises:
        ManifestError: its name or alias has been taken meanwhile, or the file cannot be written.
    """
    text, _ = _joined(addition.table, manifest)
    target = manifest.resolve()  # where it is a link, what it leads to
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o644
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
            written = Path(scratch) / target.name
            written.write_text(text)
            if written.stat().st_mode & 0o777 != mode:
                with suppress(OSError):  # some volumes have one mode for all files
                    written.chmod(mode)
            written.replace(target)
    except OSError as exc:
        raise ManifestError(f"{manifest}: cannot be written: {exc}") from exc


def _joined(table: str, manifest: Path) -> tuple[str, Mapping[str, ModelSpec]]:
    """The content of the file with the table appended, and its models."""
    before = manifest.read_text() if manifest.exists() else ""
    text = f"{before.rstrip()}\n\n{table}".lstrip()
    return text, parse(text, manifest)


def _name(where: str) -> str:
    """The last part of a source, as names may be.

    Raises:
        ManifestError: nothing is left of it.
    """
    last = Path(_absolute(where)).name.lower()
    name = re.sub(r"[^a-z0-9._-]+", "-", last).strip("._-")[:128]
    if not re.fullmatch(NAME, name):
        raise ManifestError(f"{where}: cannot be used as a table name; choose one with --name")
    return name


def _absolute(where: str) -> str:
    """A source with a path that does not depend on where the command runs."""
    return str(Path(where).resolve()) if where.startswith((".", "/")) else where


def _written(where: str, manifest: Path) -> str:
    """A source as the manifest spells it: folders beside the file relative to it, so that both can move."""
    folder = manifest.absolute().parent.resolve()
    is_beside = where.startswith("/") and Path(where).is_relative_to(folder)
    return f"./{Path(where).relative_to(folder)}" if is_beside else where


def _table(name: str, keys: Mapping[str, Finding]) -> str:
    header = f"[{name}]" if re.fullmatch("[A-Za-z0-9_-]+", name) else f"[{_toml(name)}]"  # TOML's bare keys
    return "\n".join([header, *(_line(key, finding) for key, finding in keys.items())]) + "\n"


def _line(key: str, finding: Finding) -> str:
    """A key and its value, with what says so beside it or, where that is long, above it."""
    line = f"{key} = {_toml(finding.value)}"
    evidence = "".join(mark for mark in finding.evidence if mark.isprintable())
    if not evidence:
        return line
    comment = f"# {'a guess from ' if finding.is_guess else ''}{evidence}"
    return f"{line} {comment}" if len(line) + len(comment) < _WIDEST else f"{comment}\n{line}"


def _toml(value: object) -> str:
    """A value as TOML: JSON's spelling, except of objects and of DEL, which TOML wants escaped."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_toml(key)} = {_toml(one)}' for key, one in value.items())} }}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
