import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from export.runtime.freshness import file_hash, staleness

KEY = {"tensorrt": "10.13.3", "graph": "ab", "profiles": [1, 2]}
NAMES = {"tensorrt": "TensorRT"}


@pytest.mark.parametrize(
    ("old", "reason"),
    [
        (KEY, None),
        (KEY | {"note": "of another version"}, None),
        (KEY | {"graph": "cd"}, "the graph changed"),
        (KEY | {"profiles": [1]}, "the profiles changed"),
        (KEY | {"tensorrt": "10.13.2", "graph": "cd"}, "TensorRT was 10.13.2 and is 10.13.3 and the graph changed"),
        ({"graph": "ab", "profiles": [1, 2]}, "TensorRT was None and is 10.13.3"),
    ],
)
def test_reason_names_what_changed(old: dict[str, Any], reason: str | None, tmp_path: Path) -> None:
    (tmp_path / "plan").touch()
    (tmp_path / "key").write_text(json.dumps(old))
    assert staleness(tmp_path / "plan", tmp_path / "key", KEY, NAMES) == reason


@pytest.mark.parametrize("content", ["", '{"key"', None])
def test_file_of_unknown_origin_is_stale(content: str | None, tmp_path: Path) -> None:
    (tmp_path / "plan").touch()
    if content is not None:
        (tmp_path / "key").write_text(content)
    reason = staleness(tmp_path / "plan", tmp_path / "key", KEY, NAMES)
    assert reason == "it is not known what plan was built from"


def test_missing_file_is_stale(tmp_path: Path) -> None:
    assert staleness(tmp_path / "plan", tmp_path / "key", KEY, NAMES) == "there is no plan yet"


def test_hash_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert file_hash(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()
