"""The lines of a batch: OpenAI's format of requests and results, and the files of results.

The files of results are themselves the record of what is done: each line names the request that it answers, by its
number. What a crash left unfinished is cut off, and its requests are computed again.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

import msgspec
from msgspec import Raw, Struct

from gateway.jobs.store import Problem, sync_folder
from gateway.surrogates import without_lone_surrogates

MAX_LINES = 100_000
"""Requests of a batch."""
MAX_CUSTOM_ID = 512
"""Characters of a `custom_id`."""
MAX_PROBLEMS = 20
"""How many invalid lines of a file are reported."""
RESULT = re.compile(rb'\{"id":"batch_req_[0-9a-f]{32}_([1-9]\d{0,8})","custom_id":')
"""How the line of a result begins."""


class RequestLine(Struct, frozen=True):
    """A request of a batch."""

    custom_id: str
    method: str
    url: str
    body: Raw


class LineResponse(Struct, frozen=True):
    """The answer to a request."""

    status_code: int
    request_id: str
    body: Raw


class LineError(Struct, frozen=True):
    """Why a request has no answer."""

    code: str
    message: str


class ResultLine(Struct, frozen=True):
    """The result of a request. `id` comes first, and holds the number of the request."""

    id: str
    custom_id: str
    response: LineResponse | None
    error: LineError | None


class Line(Struct, frozen=True):
    """A line of an input file."""

    number: int
    """From 1."""
    content: bytes

    @property
    def request(self) -> RequestLine:
        """What it says, if the file is valid."""
        try:
            return msgspec.json.decode(self.content, type=RequestLine)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            return msgspec.json.decode(without_lone_surrogates(self.content), type=RequestLine)


class Result(Struct, frozen=True):
    """What came of a request."""

    number: int
    custom_id: str
    is_success: bool
    response: LineResponse | None = None
    error: LineError | None = None

    def line(self, batch_id: str) -> bytes:
        """Its line in a file of results."""
        name = f"batch_req_{batch_id.removeprefix('batch_')}_{self.number}"
        return msgspec.json.encode(ResultLine(name, self.custom_id, self.response, self.error)) + b"\n"


def read(path: Path, max_bytes: int) -> Iterator[Line]:
    """The lines of a file that are not blank. A line over the limit is cut to one byte more than that.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        number = 0
        while content := file.readline(max_bytes + 2):  # with the line feed
            number += 1
            is_whole = content.endswith(b"\n")
            line = Line(number, content.rstrip(b"\r\n") if is_whole else content)
            while not is_whole and (rest := file.readline(2**16)):
                is_whole = rest.endswith(b"\n")
            if line.content.strip():
                yield line


def check(path: Path, endpoint: str, max_bytes: int) -> tuple[int, list[Problem]]:
    """How many requests a file has, and what is wrong with it.

    Raises:
        OSError: the file cannot be read.
    """
    problems: list[Problem] = []
    seen: set[bytes] = set()  # digests, since ids may be long
    count = 0
    for line in read(path, max_bytes):
        count += 1
        if count > MAX_LINES:
            problems.append(Problem("too_many_requests", f"the file has more than {MAX_LINES} requests", line.number))
            break
        problem = _problem(line, endpoint, max_bytes, seen)
        if problem is not None:
            problems.append(problem)
            if len(problems) == MAX_PROBLEMS:
                break
    if not count:
        problems.append(Problem("empty_file", "the file has no requests"))
    return count, problems


def _problem(line: Line, endpoint: str, max_bytes: int, seen: set[bytes]) -> Problem | None:
    """What is wrong with a line, if anything is."""

    def problem(code: str, message: str, param: str | None = None) -> Problem:
        return Problem(code, message, line.number, param)

    if len(line.content) > max_bytes:
        return problem("line_too_long", f"the line exceeds {max_bytes} bytes")
    try:
        request = line.request
    except msgspec.ValidationError as exc:
        return problem("invalid_request", f"not a request of a batch: {exc}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return problem("invalid_json_line", "the line is not JSON in UTF-8")
    for is_wrong, code, message, param in (
        (
            not 0 < len(request.custom_id) <= MAX_CUSTOM_ID,
            "invalid_custom_id",
            f"custom_id must have 1 to {MAX_CUSTOM_ID} characters",
            "custom_id",
        ),
        (request.method != "POST", "invalid_method", "method must be POST", "method"),
        (request.url != endpoint, "invalid_url", f"url must be the endpoint of the batch, {endpoint}", "url"),
        (not bytes(request.body).startswith(b"{"), "invalid_body", "body must be an object", "body"),
    ):
        if is_wrong:
            return problem(code, message, param)
    digest = hashlib.blake2b(request.custom_id.encode(), digest_size=16).digest()
    if digest in seen:
        return problem("duplicate_custom_id", "another line has the same custom_id", "custom_id")
    seen.add(digest)
    return None


class Results:
    """The files with the results of a batch. All methods block. A context manager."""

    def __init__(self, output: Path, errors: Path) -> None:
        """Open the files, and find out what is done.

        Args:
            output: for successful requests.
            errors: for all others.

        Raises:
            OSError: a file cannot be opened, read or cut.
        """
        self.done: set[int] = set()
        """Numbers of the lines whose requests have a result."""
        self.succeeded = self.failed = 0
        self._paths = (output, errors)
        self._files: list[BinaryIO] = []
        self._sizes = [0, 0]
        try:
            for index, path in enumerate(self._paths):
                self._files.append(open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0))  # noqa: PTH123, SIM115
                before = len(self.done)
                self._recover(index)
                if index == 0:
                    self.succeeded = len(self.done)
                else:
                    self.failed = len(self.done) - before
            sync_folder(output.parent)
        except BaseException:
            self.close()
            raise

    def _recover(self, index: int) -> None:
        """Keep the whole lines of a file, and cut off the rest."""
        size = 0
        with self._paths[index].open("rb") as file:
            for line in file:
                found = RESULT.match(line)
                number = int(found[1]) if found else 0
                if not found or not line.endswith(b"}\n") or number in self.done:
                    break
                self.done.add(number)
                size += len(line)
        self._sizes[index] = size
        self._files[index].truncate(size)
        self._files[index].seek(size)

    def add(self, results: Sequence[Result], batch_id: str) -> None:
        """Write results.

        Raises:
            OSError: the disk is full, or fails. Nothing is written then.
        """
        written = [b"".join(one.line(batch_id) for one in results if one.is_success is good) for good in (True, False)]
        sizes = [size + len(more) for size, more in zip(self._sizes, written, strict=True)]
        try:
            for file, more in zip(self._files, written, strict=True):
                view = memoryview(more)
                while view:
                    view = view[file.write(view) :]
        except OSError:
            for file, size in zip(self._files, self._sizes, strict=True):
                file.truncate(size)
                file.seek(size)
            raise
        self._sizes = sizes
        self.done.update(one.number for one in results)
        good = sum(one.is_success for one in results)
        self.succeeded += good
        self.failed += len(results) - good

    def sync(self) -> None:
        """Make what is written durable.

        Raises:
            OSError: the disk fails.
        """
        for file in self._files:
            os.fdatasync(file.fileno())

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of both files."""
        return self._sizes[0], self._sizes[1]

    def close(self) -> None:
        for file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:  # noqa: ANN401
        self.close()
