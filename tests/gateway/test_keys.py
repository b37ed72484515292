import logging
import os
from pathlib import Path

import pytest

from gateway.keys import Keys


def test_owner_is_told_by_a_name_that_is_not_the_key() -> None:
    given = Keys(["right", "other"], None)
    assert given.are_asked_for
    names = {given.owner(b"right"), given.owner(b"other")}
    assert len(names) == 2
    assert not any(name is None or "right" in name for name in names)
    assert given.owner(b"wrong") is None


def test_without_keys_none_is_asked_for() -> None:
    assert not Keys([], None).are_asked_for


def test_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("old\n")
    given = Keys(["fixed"], file, reread_s=0)
    assert given.owner(b"old")
    file.write_text("new\n\n newer \n")
    os.utime(file, ns=(1, 1))  # changed within a tick of the clock
    assert [given.owner(key) is not None for key in (b"old", b"new", b"newer", b"fixed")] == [False, True, True, True]


def test_file_that_another_replaces_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("old\n")
    given = Keys([], file, reread_s=0)
    status = file.stat()
    other = tmp_path / "other"
    other.write_text("new\n")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(file)
    assert [given.owner(key) is not None for key in (b"old", b"new")] == [False, True]


def test_comments_in_the_file_are_no_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the team for search\nright\n  # old: wrong\n")
    given = Keys([], file)
    assert given.owner(b"right")
    assert not given.owner(b"# of the team for search")


def test_file_that_vanishes_takes_no_key_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    file.write_text("good\n")
    caplog.set_level(logging.WARNING, "gateway.keys")  # whatever other tests have left behind
    given = Keys([], file, reread_s=0)
    file.unlink()
    assert given.owner(b"good")
    assert "FileNotFoundError" in caplog.text


def test_emptied_file_takes_all_its_keys_away_and_opens_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("good\n")
    given = Keys([], file, reread_s=0)
    file.write_text("")
    os.utime(file, ns=(1, 1))
    assert given.owner(b"good") is None
    assert given.are_asked_for
