import logging
import os
from pathlib import Path

import pytest

from gateway.access.keys import MAX_BYTES, Keys
from tests.waiting import eventually


def good(keys: Keys, *given: str) -> list[bool]:
    """Which of these keys are good."""
    return [keys.owner(key.encode()) is not None for key in given]


def test_owner_is_told_by_a_name_that_is_not_the_key() -> None:
    given = Keys(["right", "other"], None)
    assert given.required
    names = {given.owner(b"right"), given.owner(b"other")}
    assert len(names) == 2
    assert not any(name is None or "right" in name for name in names)
    assert given.owner(b"wrong") is None


def test_without_keys_none_is_asked_for() -> None:
    assert not Keys([], None).required


def test_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("old\n")
    given = Keys(["fixed"], file, reread_s=0)
    assert given.owner(b"old")
    file.write_text("new\n\n newer \n")
    eventually(lambda: good(given, "old", "new", "newer", "fixed") == [False, True, True, True], "effect of the file")


def test_file_that_changes_within_a_tick_of_the_clock_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("old\n")
    given = Keys([], file, reread_s=0)
    status = file.stat()
    file.write_text("new\n")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    eventually(lambda: good(given, "old", "new") == [False, True], "effect of the file")


def test_file_that_another_replaces_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("old\n")
    given = Keys([], file, reread_s=0)
    status = file.stat()
    other = tmp_path / "other"
    other.write_text("new\n")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(file)
    eventually(lambda: good(given, "old", "new") == [False, True], "effect of the file")


@pytest.mark.parametrize("other", ["fifo", "device", "large file"])
def test_unreadable_key_file_delays_nobody_and_removes_no_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, other: str
) -> None:
    file = tmp_path / "keys"
    file.write_text("good\n")
    caplog.set_level(logging.WARNING, "gateway.access.keys")
    given = Keys([], file, reread_s=0)
    file.unlink()
    if other == "fifo":
        os.mkfifo(file)
    elif other == "device":
        file.symlink_to("/dev/zero")
    else:
        file.write_bytes(b"x\n" * MAX_BYTES)
    eventually(lambda: given.owner(b"good") is not None and bool(caplog.messages), "effect of the file")
    assert given.owner(b"good")
    file.unlink()
    file.write_text("new\n")
    eventually(lambda: good(given, "good", "new") == [False, True], "effect of the file")
    assert caplog.messages == ["cannot read the API key file; the keys read before stay valid: OSError"]


def test_world_writable_file_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "gateway.access.keys")
    file = tmp_path / "keys"
    file.write_text("good\n")
    file.chmod(0o664)
    Keys([], file)
    assert not caplog.messages
    file.chmod(0o666)
    Keys([], file)
    assert caplog.messages == ["the API key file is writable by every user of this machine"]


def test_file_that_becomes_world_writable_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "gateway.access.keys")
    file = tmp_path / "keys"
    file.write_text("good\n")
    file.chmod(0o600)
    given = Keys([], file, reread_s=0)
    assert not caplog.messages
    file.chmod(0o666)
    eventually(lambda: given.owner(b"good") is not None and bool(caplog.messages), "effect of the file")
    assert caplog.messages == ["the API key file is writable by every user of this machine"]


def test_comments_in_the_file_are_not_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the team for search\nright\n  # old: wrong\n")
    given = Keys([], file)
    assert given.owner(b"right")
    assert not given.owner(b"# of the team for search")


def test_deleted_file_removes_no_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    file.write_text("good\n")
    caplog.set_level(logging.WARNING, "gateway.access.keys")  # whatever other tests have left behind
    given = Keys([], file, reread_s=0)
    file.unlink()
    eventually(lambda: given.owner(b"good") is not None and "FileNotFoundError" in caplog.text, "effect of the file")
    assert given.owner(b"good")


def test_emptied_file_removes_its_keys_but_a_key_is_still_required(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("good\n")
    given = Keys([], file, reread_s=0)
    file.write_text("")
    eventually(lambda: given.owner(b"good") is None, "effect of the file")
    assert given.required
