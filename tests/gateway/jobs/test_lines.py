import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from gateway.jobs import lines
from gateway.jobs.lines import LineError, LineResponse, Result, Results, check, read

BATCH = "batch_" + "0" * 32
MAX_BYTES = 1000


def good(number: int, text: str = "answer") -> Result:
    response = LineResponse(200, "id", msgspec.Raw(json.dumps({"text": text}).encode()))
    return Result(number, f"custom {number}", is_success=True, response=response)


def bad(number: int) -> Result:
    return Result(number, f"custom {number}", is_success=False, error=LineError("code", "message"))


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "output", tmp_path / "errors"


def test_results_are_in_openais_format(paths: tuple[Path, Path]) -> None:
    with Results(*paths) as results:
        results.add([good(1), bad(2)], BATCH)
    output, errors = (json.loads(path.read_text()) for path in paths)
    assert output == {
        "id": f"batch_req_{'0' * 32}_1",
        "custom_id": "custom 1",
        "response": {"status_code": 200, "request_id": "id", "body": {"text": "answer"}},
        "error": None,
    }
    assert errors == {
        "id": f"batch_req_{'0' * 32}_2",
        "custom_id": "custom 2",
        "response": None,
        "error": {"code": "code", "message": "message"},
    }


def test_results_go_on_where_they_were(paths: tuple[Path, Path]) -> None:
    with Results(*paths) as results:
        results.add([good(3), bad(1)], BATCH)
        results.add([good(7)], BATCH)
    with Results(*paths) as results:
        assert results.done == {1, 3, 7}
        assert (results.succeeded, results.failed) == (2, 1)
        results.add([good(2)], BATCH)
        assert results.done == {1, 2, 3, 7}
    assert [json.loads(line)["custom_id"] for line in paths[0].read_text().splitlines()] == [
        "custom 3",
        "custom 7",
        "custom 2",
    ]


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_torn_line_is_cut_off(paths: tuple[Path, Path], cut: int) -> None:
    with Results(*paths) as results:
        results.add([good(1)], BATCH)
        whole = paths[0].read_bytes()
        results.add([good(2)], BATCH)
    os.truncate(paths[0], paths[0].stat().st_size - cut)
    with Results(*paths) as results:
        assert results.done == {1}
        assert paths[0].read_bytes() == whole
        results.add([good(2)], BATCH)
    assert len([json.loads(line) for line in paths[0].read_text().splitlines()]) == 2


@pytest.mark.parametrize("rest", [b"\0" * 5000, b"\0" * 100 + b"}\n", b"\n", b"{}\n", b'{"id":"batch_req_1"}\n'])
def test_what_is_no_result_is_cut_off(paths: tuple[Path, Path], rest: bytes) -> None:
    with Results(*paths) as results:
        results.add([good(1)], BATCH)
    whole = paths[0].read_bytes()
    paths[0].write_bytes(whole + rest + good(2).line(BATCH))
    with Results(*paths) as results:
        assert results.done == {1}
    assert paths[0].read_bytes() == whole


def test_repeated_result_is_cut_off(paths: tuple[Path, Path]) -> None:
    paths[0].write_bytes(good(1).line(BATCH) + good(1).line(BATCH))
    with Results(*paths) as results:
        assert results.done == {1}
        assert results.sizes == (len(good(1).line(BATCH)), 0)


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Let writes beyond this size fail, as on a full disk: what fits is written before."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


def test_failed_write_leaves_nothing_behind(paths: tuple[Path, Path]) -> None:
    with Results(*paths) as results:
        results.add([good(1)], BATCH)
        before = paths[0].read_bytes()
        with file_limit(len(before) + 1000), pytest.raises(OSError, match="File too large"):
            results.add([good(2), bad(3), good(4, "long" * 1000)], BATCH)
        assert (paths[0].read_bytes(), paths[1].read_bytes()) == (before, b"")
        assert results.done == {1}
        results.add([good(2), bad(3)], BATCH)
    with Results(*paths) as results:
        assert results.done == {1, 2, 3}


def write(path: Path, *given: object) -> Path:
    path.write_bytes(b"\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in given))
    return path


def request(custom_id: object = "a", **change: object) -> dict[str, object]:
    return {"custom_id": custom_id, "method": "POST", "url": "/embed", "body": {"inputs": "a"}} | change


def test_valid_file_has_no_problem(tmp_path: Path) -> None:
    path = write(tmp_path / "a", request("a"), b"", request("b", extra=1), b"\r", request("\u00e9" * 512))
    assert check(path, "/embed", 5000) == (3, [])


def test_half_a_surrogate_pair_is_read_as_in_other_requests(tmp_path: Path) -> None:
    line = rb'{"custom_id": "a\ud83d", "method": "POST", "url": "/embed", "body": {"inputs": "\ud83d"}}'
    path = write(tmp_path / "a", line)
    assert check(path, "/embed", 5000) == (1, [])
    (found,) = read(path, MAX_BYTES)
    assert found.request.custom_id == "a\ufffd"
    assert json.loads(bytes(found.request.body)) == {"inputs": "\ufffd"}


def test_lines_keep_their_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"", request("a"), b"  \r", request("b"))
    found = [*read(path, MAX_BYTES)]
    assert [(line.number, line.request.custom_id) for line in found] == [(2, "a"), (4, "b")]
    assert bytes(found[0].request.body) == b'{"inputs": "a"}'


def test_long_line_is_not_read_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"x" * 300_000, request("a"), b"y" * 300_000)
    found = [*read(path, MAX_BYTES)]
    assert [line.number for line in found] == [1, 2, 3]
    assert len(found[0].content) <= MAX_BYTES + 2
    count, problems = check(path, "/embed", MAX_BYTES)
    assert count == 3
    assert [(problem.code, problem.line) for problem in problems] == [("line_too_long", 1), ("line_too_long", 3)]


def test_line_of_just_the_limit_is_valid(tmp_path: Path) -> None:
    line = json.dumps(request("a")).encode()
    path = tmp_path / "a"
    for end in (b"", b"\n", b"\r\n"):
        path.write_bytes(line + end)
        assert check(path, "/embed", len(line)) == (1, [])
        assert [problem.code for problem in check(path, "/embed", len(line) - 1)[1]] == ["line_too_long"]


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"custom_id": "a", "method": "POST", "url": "/embed", "body": {"a": \xff}}',
        b'{"custom_id": "a", "method": "POST", "url": "/embed"}',
        b'{"custom_id": 1, "method": "POST", "url": "/embed", "body": {}}',
        b'{"custom_id": "a", "method": "POST", "url": "/embed", "body": "{}"}',
    ],
)
def test_hostile_line_is_a_problem(tmp_path: Path, line: bytes) -> None:
    count, problems = check(write(tmp_path / "a", line), "/embed", 10**6)
    assert count == 1
    assert len(problems) == 1


def test_problems_are_limited(tmp_path: Path) -> None:
    _, problems = check(write(tmp_path / "a", *[b"x"] * 1000), "/embed", MAX_BYTES)
    assert len(problems) == lines.MAX_PROBLEMS


def test_requests_are_limited(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a", *(request(number) | {"custom_id": str(number)} for number in range(lines.MAX_LINES + 1))
    )
    _, problems = check(path, "/embed", MAX_BYTES)
    assert [problem.code for problem in problems] == ["too_many_requests"]
