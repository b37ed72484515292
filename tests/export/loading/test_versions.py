import json
from pathlib import Path

import pytest

from export.loading.versions import HERE, newer, read


def folder(path: Path, transformers: object, sentence_transformers: object) -> Path:
    (path / "config.json").write_text(json.dumps({"transformers_version": transformers}))
    versions = {"sentence_transformers": sentence_transformers, "pytorch": "99.0"}
    (path / "config_sentence_transformers.json").write_text(json.dumps({"__version__": versions}))
    return path


@pytest.mark.parametrize("versions", [("4.57.6", "5.7.0"), (None, None), ("unknown", []), ("", "5.0.0.dev0")])
def test_older_and_unknown_versions_say_nothing(versions: tuple[object, object], tmp_path: Path) -> None:
    assert newer(folder(tmp_path, *versions)) == ""


def test_patch_release_counts_as_the_same(tmp_path: Path) -> None:
    major, minor, *_ = HERE["transformers"].split(".")
    assert newer(folder(tmp_path, f"{major}.{minor}.99", "5.7.0")) == ""


def test_newer_library_is_named_with_both_versions(tmp_path: Path) -> None:
    here = HERE["transformers"]
    assert newer(folder(tmp_path, "99.1.0", "5.7.0")) == (
        f"; it was saved by transformers 99.1.0, newer than the {here} that reads it here"
    )
    assert "sentence_transformers 99.2" in newer(folder(tmp_path, "4.57.6", "99.2"))


@pytest.mark.parametrize("content", [None, "", "[1]", "{", "{}"])
def test_file_without_an_object_is_an_empty_one(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert read(tmp_path / "config.json") == {}
    assert newer(tmp_path) == ""
