"""The versions of the libraries that saved a folder, compared with the versions here."""

import json
from pathlib import Path
from typing import Any

import sentence_transformers
import transformers
from packaging.version import InvalidVersion, Version

HERE = {"transformers": transformers.__version__, "sentence_transformers": sentence_transformers.__version__}


def read(file: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one if there is none."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def newer(folder: Path) -> str:
    """A clause that names both versions if newer libraries saved a folder than read it here, else an empty string.

    A patch release counts as the same.
    """
    saved = {"transformers": read(folder / "config.json").get("transformers_version")}
    own = read(folder / "config_sentence_transformers.json").get("__version__")
    saved |= own if isinstance(own, dict) else {}
    for library, version in HERE.items():
        if _release(saved.get(library)) > _release(version):
            return f"; it was saved by {library} {saved[library]}, newer than the {version} that reads it here"
    return ""


def _release(version: object) -> tuple[int, ...]:
    """Major and minor."""
    try:
        return Version(str(version)).release[:2]
    except InvalidVersion:
        return ()
