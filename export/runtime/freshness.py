"""Whether a file that is built where it runs still fits: a plan of TensorRT or a compiled program.

Needs the standard library only.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def staleness(built: Path, record: Path, key: Mapping[str, Any], names: Mapping[str, str]) -> str | None:
    """Why a file must be built again, or None if it was built from this key.

    Args:
        built: the file.
        record: the JSON file beside it, with the key that it was built from.
        key: everything that decides whether the file still fits, by name.
        names: what a sentence calls the parts of the key whose values it tells.
    """
    if not built.is_file():
        return f"there is no {built.name} yet"
    try:
        old = json.loads(record.read_text())
    except (OSError, ValueError):
        old = None
    if not isinstance(old, dict):
        return f"it is not known what {built.name} was built from"
    changed = [part for part, value in key.items() if old.get(part) != value]
    reasons = [
        f"{names[part]} was {old.get(part)} and is {key[part]}" if part in names else f"the {part} changed"
        for part in changed
    ]
    return " and ".join(reasons) or None


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
