"""Parses and writes large JSON in steps of a few milliseconds. One call of msgspec holds the interpreter lock until it
returns, up to 100 ms for 32 MiB."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, TypeVar

import msgspec
import numpy as np
from msgspec import Raw, Struct
from numpy.typing import NDArray

from gateway.errors import InvalidRequest, RequestTooLarge
from gateway.surrogates import SURROGATE, without_lone_surrogates

T = TypeVar("T")
Part = bytes | memoryview
GAP = Raw(b"\0")
"""Stands for a value that is written on its own. This byte is nowhere in JSON."""

PIECE_BYTES = 2**20
"""The most JSON to parse in one call."""
SCAN_BYTES = 2**18
SMALL_BYTES = 2**12
"""JSON and texts up to this size are written together with what they are part of."""
RUN = 2**8
"""The most small values to write in one call: at most 1 MiB of JSON."""
MAX_VALUES = 310_000
"""The most values in a body, counted by commas: more than the tokens that a request may have. A value takes up to a
hundred times as much memory as its text."""
MAX_CONTAINERS = 32_768
"""The most lists and objects in a body: sixteen for each input. Python's garbage collector visits them repeatedly while
they are created."""
MAX_NAMES = 65_536
"""The most fields of objects in a body: 32 for each input."""
MAX_DEPTH = 100
MAX_STRING = 16 * 2**20
"""The longest string, in characters: longer than the base64 of the largest image."""
MAX_WIDE_STRING = 4 * 2**20
"""The longest non-ASCII string. Python stores such strings in up to four bytes per character. No model reads texts of
this length."""

SPACE = b" \t\n\r"
MARKS = b'{}[],:"'
OPEN, CLOSE = b"{[", b"}]"
IS_MARK = np.isin(np.arange(256), list(MARKS))
DEPTHS = np.zeros(256, np.int64)
DEPTHS[list(OPEN)] = 1
DEPTHS[list(CLOSE)] = -1
HIGH, LOW = map(re.compile, SURROGATE)
ESCAPE_BYTES = 6
"""The length of the longest escape, half a surrogate pair."""
BYTE = re.compile(r" \(byte (\d+)\)")
"""The position in msgspec's messages."""


def decode(body: bytes | bytearray, body_type: type[T]) -> T:
    """Parse JSON of any size into a type. Half a surrogate pair becomes U+FFFD.

    Raises:
        msgspec.ValidationError: the JSON is not of this type.
        InvalidRequest: the body is not JSON.
        RequestTooLarge: the body has more values or longer strings than any valid request.
    """
    if len(body) > PIECE_BYTES:
        return msgspec.convert(_PieceParser(body).parse(), body_type)
    containers = body.count(b"[") + body.count(b"{")
    if body.count(b",") > MAX_VALUES or containers > MAX_CONTAINERS or body.count(b":") > MAX_NAMES:
        _marks(body)
    return _decode(body, body_type)


def encode(content: object) -> list[Part]:
    """Write JSON in parts, which are the whole if they are joined. Large values that are JSON already are not copied.
    A list that two fields hold is written once."""
    return list(_parts(content))


def _parts(content: object) -> Iterator[Part]:
    if isinstance(content, Struct):
        yield from _fields(content, {name: getattr(content, name) for name in content.__struct_fields__})
    elif isinstance(content, dict):
        yield from _fields(content, content)
    elif isinstance(content, list) and any(map(_is_large, content)):
        before = b"["
        for item in content:
            yield before
            yield from _parts(item)
            before = b","
        yield b"]"
    elif isinstance(content, list):
        for start in range(0, len(content), RUN):
            yield b"," if start else b"["
            yield msgspec.json.encode(content[start : start + RUN])[1:-1]
        yield b"]" if content else b"[]"
    elif isinstance(content, Raw):
        yield memoryview(content)
    else:
        yield msgspec.json.encode(content)


def _fields(content: Struct | dict[str, object], fields: Mapping[str, object]) -> Iterator[Part]:
    """Write an object: first without its large values, then those."""
    large = {name: value for name, value in fields.items() if _is_large(value)}
    if not large:
        yield msgspec.json.encode(content)
        return
    gaps = dict.fromkeys(large, GAP)
    frame = content | gaps if isinstance(content, dict) else msgspec.structs.replace(content, **gaps)
    first, *rest = msgspec.json.encode(frame).split(bytes(GAP))
    yield first
    written: dict[int, list[Part]] = {}
    for value, behind in zip(large.values(), rest, strict=True):
        if id(value) not in written:
            written[id(value)] = encode(value)
        yield from written[id(value)]
        yield behind


def _is_large(value: object) -> bool:
    """Whether to write a value on its own."""
    if isinstance(value, str):
        return len(value) > SMALL_BYTES
    if isinstance(value, Raw):
        return len(memoryview(value)) > SMALL_BYTES
    if isinstance(value, Struct):
        return any(_is_large(getattr(value, name)) for name in value.__struct_fields__)
    return isinstance(value, list | dict) and bool(value)


def _decode(piece: bytes | bytearray, piece_type: type[T], offset: int = 0) -> T:
    """Parse at most PIECE_BYTES. `offset` is the position in the body, for messages."""
    try:
        return msgspec.json.decode(piece, type=piece_type)
    except UnicodeDecodeError:
        _refuse(_utf8_problem(piece, offset))
    except RecursionError:
        _refuse("it is nested too deeply")
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError as exc:
        repaired = without_lone_surrogates(piece)
        if repaired != piece:
            return _decode(repaired, piece_type, offset)
        _refuse(BYTE.sub(lambda found: f" (byte {int(found[1]) + offset})", str(exc)))


def _refuse(problem: str) -> NoReturn:
    raise InvalidRequest(f"the body is not valid JSON: {problem}")


def _utf8_problem(piece: bytes | bytearray, offset: int) -> str:
    """Where the body is not UTF-8; msgspec counts from the beginning of the string instead."""
    try:
        piece.decode()
    except UnicodeDecodeError as exc:
        return f"it is not UTF-8: {exc.reason} (byte {exc.start + offset})"
    return "it is not UTF-8"


def _marks(body: bytes | bytearray) -> NDArray[np.int64]:
    """The positions of the characters in MARKS, except those inside strings.

    Raises:
        RequestTooLarge: there are more values than in any valid request.
        InvalidRequest: a string is not closed.
    """
    found: list[NDArray[np.int64]] = []
    commas = containers = names = marks = start = 0
    inside = False
    while start < len(body):
        # Replace escapes by two other characters, from left to right, as a parser reads them.
        piece = body[start : start + SCAN_BYTES].replace(rb"\\", b"..").replace(rb"\"", b"..")
        if piece.endswith(b"\\") and start + len(piece) < len(body):
            piece = piece[:-1]
        if not inside or b'"' in piece:
            characters = np.frombuffer(piece, np.uint8)
            quotes = characters == ord('"')
            in_string = np.logical_xor.accumulate(quotes) ^ inside
            here = np.flatnonzero(IS_MARK[characters] & (~in_string | quotes))
            inside = bool(in_string[-1])
            kinds = characters[here].tobytes()
            commas += kinds.count(b",")
            containers += kinds.count(b"[") + kinds.count(b"{")
            names += kinds.count(b":")
            marks += len(here)
            _check_counts(commas, containers, names, marks)
            found.append(here + start)
        start += len(piece)
    if inside:
        _refuse("Input data was truncated")
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _check_counts(commas: int, containers: int, names: int, marks: int) -> None:
    if commas > MAX_VALUES or marks > len(MARKS) * MAX_VALUES:  # valid JSON has no more marks per comma
        raise RequestTooLarge(f"the body has more than {MAX_VALUES} values")
    if containers > MAX_CONTAINERS:
        raise RequestTooLarge(f"the body has more than {MAX_CONTAINERS} lists and objects")
    if names > MAX_NAMES:
        raise RequestTooLarge(f"the body has more than {MAX_NAMES} fields")


class _PieceParser:
    """Parses a body piece by piece, with the positions of its marks.

    `start` and `stop` delimit a span of bytes, `first` and `last` the marks in it; both are half-open.
    """

    def __init__(self, body: bytes | bytearray) -> None:
        self._body = body
        self._at = _marks(body)
        kinds = np.frombuffer(body, np.uint8)[self._at]
        self._kinds = kinds.tobytes()
        self._depths = np.cumsum(DEPTHS[kinds])
        if len(self._depths) and self._depths.max() > MAX_DEPTH:
            _refuse("it is nested too deeply")

    def parse(self) -> object:
        return self._value(0, len(self._body), 0, len(self._at))

    def _value(self, start: int, stop: int, first: int, last: int) -> object:
        if stop - start <= PIECE_BYTES:
            return _decode(self._body[start:stop], Any, start)
        start = self._skip_whitespace(start, stop)
        if start == stop:
            _refuse(f"expected a value (byte {start})")
        if first == last or self._at[first] != start:
            return self._scalar(start, stop)
        kind = self._kinds[first]
        if kind == ord('"'):
            self._expect_end(int(self._at[first + 1]), stop)
            return self._string(start + 1, int(self._at[first + 1]))
        end = int(self._at[last - 1])
        if self._kinds[first : first + 1] + self._kinds[last - 1 : last] not in (b"[]", b"{}"):
            _refuse(f"the value that begins at byte {start} is not closed")
        self._expect_end(end, stop)
        depths = self._depths[first : last - 1]
        if depths.min() < depths[0]:
            _refuse(f"expected ',' or the end (byte {start})")
        if self._skip_whitespace(start + 1, end) == end:
            return [] if kind == ord("[") else {}
        return self._list(first, last) if kind == ord("[") else self._object(first, last)

    def _list(self, first: int, last: int) -> list[object]:
        items: list[object] = []
        for start, stop, inner, outer, count in self._runs(first, last):
            if stop - start > PIECE_BYTES:
                items.append(self._value(start, stop, inner, outer))
                continue
            run = _decode(b"[" + self._body[start:stop] + b"]", list[Any], start - 1)
            if len(run) != count:
                _refuse(f"expected a value (byte {start})")
            items += run
        return items

    def _object(self, first: int, last: int) -> dict[str, object]:
        fields: dict[str, object] = {}
        for start, stop, inner, outer, _ in self._runs(first, last):
            if stop - start > PIECE_BYTES:
                name, value = self._pair(start, stop, inner, outer)
                fields[name] = value
                continue
            run = _decode(b"{" + self._body[start:stop] + b"}", dict[str, Any], start - 1)
            if not run:
                _refuse(f"expected a name (byte {start})")
            fields |= run
        return fields

    def _pair(self, start: int, stop: int, first: int, last: int) -> tuple[str, object]:
        if self._kinds[first : first + 3] != b'"":' or last - first < 3:
            _refuse(f"expected a name and ':' (byte {start})")
        colon = int(self._at[first + 2])
        name = self._value(start, colon, first, first + 2)
        if not isinstance(name, str):
            _refuse(f"expected a name (byte {start})")
        return name, self._value(colon + 1, stop, first + 3, last)

    def _runs(self, first: int, last: int) -> Iterator[tuple[int, int, int, int, int]]:
        """Divide a list or an object into runs of elements of at most PIECE_BYTES, or of one larger element.

        Yields:
            start, stop, first, last, and the number of elements.
        """
        depth = self._depths[first]
        inner = np.arange(first + 1, last - 1)
        kinds = np.frombuffer(self._kinds, np.uint8)[first + 1 : last - 1]
        commas = inner[(kinds == ord(",")) & (self._depths[first + 1 : last - 1] == depth)]
        bounds = [first, *commas.tolist(), last - 1]
        places = self._at[bounds].tolist()
        begin = 0
        while begin < len(bounds) - 1:
            end = begin + 1
            while end < len(bounds) - 1 and places[end + 1] - places[begin] <= PIECE_BYTES:
                end += 1
            yield places[begin] + 1, places[end], bounds[begin] + 1, bounds[end], end - begin
            begin = end

    def _string(self, start: int, stop: int) -> str:
        parts: list[str] = []
        length = 0
        while start < stop:
            cut = self._split_point(start, stop)
            parts.append(_decode(b'"' + self._body[start:cut] + b'"', str, start - 1))
            length += len(parts[-1])
            if length > MAX_STRING:
                raise RequestTooLarge(f"a string has more than {MAX_STRING} characters")
            if length > MAX_WIDE_STRING and not all(part.isascii() for part in parts):
                raise RequestTooLarge(f"a non-ASCII string has more than {MAX_WIDE_STRING} characters")
            start = cut
        return "".join(parts)

    def _split_point(self, start: int, stop: int) -> int:
        """Where to divide the rest of a string, outside of escapes, surrogate pairs and UTF-8 characters."""
        if stop - start <= PIECE_BYTES:
            return stop
        piece = self._body[start : start + PIECE_BYTES].replace(rb"\\", b"..")  # every backslash left begins an escape
        cut = piece.rfind(b"\\", len(piece) - ESCAPE_BYTES)
        if cut >= 0:
            before = cut - ESCAPE_BYTES
            if LOW.match(self._body, start + cut) and HIGH.match(piece, before):
                cut = before
            return start + cut
        cut = start + len(piece)
        for _ in range(3):
            if self._body[cut] & 0xC0 == 0x80:  # inside a UTF-8 character
                cut -= 1
        return cut

    def _scalar(self, start: int, stop: int) -> object:
        """A number, true, false or null, followed by much whitespace."""
        token = self._body[start : min(start + PIECE_BYTES, stop)].split(maxsplit=1)[0]
        self._expect_end(start + len(token) - 1, stop)
        return _decode(token, Any, start)

    def _skip_whitespace(self, start: int, stop: int) -> int:
        """The position of the first character after the whitespace at `start`."""
        while start < stop:
            piece = self._body[start : min(start + SCAN_BYTES, stop)]
            rest = piece.lstrip(SPACE)
            start += len(piece) - len(rest)
            if rest:
                break
        return start

    def _expect_end(self, at: int, stop: int) -> None:
        """Raise InvalidRequest if anything but whitespace follows the end of a value."""
        if (after := self._skip_whitespace(at + 1, stop)) != stop:
            _refuse(f"trailing characters (byte {after})")
