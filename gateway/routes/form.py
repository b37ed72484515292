"""Receives multipart/form-data: a file, which is written to disk as it comes, and short fields."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from gateway.errors import InvalidRequest, NotReady, RequestTooLarge
from gateway.routes.http import Request

FILE = "file"
"""The field of the file."""
MAX_PARTS = 32
MAX_TEXT = 2**16
"""Bytes of all headers and short fields."""
WRITE_BYTES = 2**20
"""How much to write at a time."""
LOOK_BYTES = 8 * 2**20
"""How often to ask for the room that is left."""


class Form:
    """A form as far as it has been received."""

    def __init__(self, content_type: str) -> None:
        """Begin with nothing.

        Args:
            content_type: of the request.

        Raises:
            InvalidRequest: it is not that of a form.
        """
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or b"boundary" not in options:
            raise InvalidRequest("the body must be multipart/form-data, with a file")
        self.fields: dict[str, str] = {}
        self.file_name: str | None = None
        self.content = bytearray()
        """What has come of the file and is not written yet."""
        self._is_whole = False
        self._parts = 0
        self._text_bytes = 0
        self._header, self._value = bytearray(), bytearray()
        self._name = ""
        self._field: bytearray | None = None
        """The value of a short field; None in the part of the file."""
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._begin,
                    "on_header_field": lambda data, start, end: self._text(self._header, data[start:end]),
                    "on_header_value": lambda data, start, end: self._text(self._value, data[start:end]),
                    "on_header_end": self._end_header,
                    "on_part_data": self._data,
                    "on_part_end": self._end,
                    "on_end": self._end_form,
                },
            )
        except FormParserError as exc:
            raise InvalidRequest(f"malformed multipart/form-data: {exc}") from exc

    def feed(self, data: bytes) -> None:
        """Take a piece of the body.

        Raises:
            InvalidRequest: the form is malformed.
            RequestTooLarge: it has too many parts, or too much in them that is not the file.
        """
        try:
            self._parser.write(data)
        except FormParserError as exc:
            raise InvalidRequest(f"malformed multipart/form-data: {exc}") from exc

    def check_is_whole(self) -> None:
        """Raise InvalidRequest if the end is missing, or the file."""
        if not self._is_whole:
            raise InvalidRequest("malformed multipart/form-data: the last boundary is missing")
        if self.file_name is None:
            raise InvalidRequest("the form has no file", param=FILE)

    def _text(self, text: bytearray, more: bytes) -> None:
        self._text_bytes += len(more)
        if self._text_bytes > MAX_TEXT:
            raise RequestTooLarge(f"the form exceeds {MAX_TEXT} bytes besides the file")
        text += more

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise RequestTooLarge(f"the form has more than {MAX_PARTS} parts")
        self._name, self._field = "", bytearray()

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self._name = options.get(b"name", b"").decode(errors="replace")
            if self._name == FILE:
                if self.file_name is not None:
                    raise InvalidRequest("the form has more than one file", param=FILE)
                self.file_name = options.get(b"filename", b"").decode(errors="replace")
                self._field = None
        self._header.clear()
        self._value.clear()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self.content += data[start:end]
        else:
            self._text(self._field, data[start:end])

    def _end(self) -> None:
        if self._field is not None:
            self.fields[self._name] = self._field.decode(errors="replace")

    def _end_form(self) -> None:
        self._is_whole = True


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Create a file, and remove it if the context fails.

    Raises:
        NotReady: the disk is full, or fails.
    """
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123 - a descriptor
            yield file
    except BaseException as exc:
        path.unlink(missing_ok=True)
        if isinstance(exc, OSError):
            raise NotReady(f"the file cannot be stored: {exc.strerror}") from exc
        raise


async def receive(request: Request, file: BinaryIO, max_bytes: int, room: Callable[[], int]) -> tuple[Form, int]:
    """Receive a form, and write its file durably.

    Args:
        request: its body has not been read.
        file: where to write the form's file.
        max_bytes: of the file.
        room: bytes that may still be written; it blocks.

    Returns:
        The form, and the size of its file in bytes.

    Raises:
        GatewayError: InvalidRequest or RequestTooLarge, by the form.
        OSError: the disk is full, or fails.
    """
    form = Form(request.headers.get("content-type", ""))
    size = looked_at = 0
    left = await asyncio.to_thread(room)
    async for data in request.stream():
        form.feed(data)
        _check_size(size + len(form.content), max_bytes, looked_at + left)
        if len(form.content) >= WRITE_BYTES:
            size += await asyncio.to_thread(file.write, bytes(form.content))
            form.content.clear()
        if size - looked_at >= LOOK_BYTES:
            looked_at, left = size, await asyncio.to_thread(room)
    form.check_is_whole()
    size += await asyncio.to_thread(file.write, bytes(form.content))
    await asyncio.to_thread(_sync, file)
    return form, size


def _check_size(size: int, max_bytes: int, room: int) -> None:
    if size > max_bytes:
        raise RequestTooLarge(f"the file exceeds {max_bytes} bytes", param=FILE)
    if size > room:
        raise RequestTooLarge("the files of batches have reached their limit; delete some", param=FILE)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
