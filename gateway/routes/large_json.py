"""JSON of any size, parsed and written in steps of a few milliseconds: msgspec keeps all other threads waiting for as
long as one call takes, and 32 MiB take it up to 100 ms."""

import re
from collections.abc import Iterator
from typing import Any, NoReturn, TypeVar

import msgspec
import numpy as np
from msgspec import Raw, Struct
from numpy.typing import NDArray

from gateway.errors import InvalidRequest, RequestTooLarge

T = TypeVar("T")

PIECE_BYTES = 2**20
"""Parsed in one call."""
SCAN_BYTES = 2**18
MAX_VALUES = 310_000
"""In a body, as the commas between them count: the tokens that a request may have, and more. A value takes up to a
hundred times as much memory as its text."""
MAX_CONTAINERS = 32_768
"""Lists and objects: sixteen for each input. Python looks at all of them again and again while they are made."""
MAX_NAMES = 65_536
"""Of values in objects: 32 for each input."""
MAX_DEPTH = 100
MAX_STRING = 16 * 2**20
"""Characters: more than an image of the greatest size has in base64."""
MAX_WIDE_STRING = 4 * 2**20
"""Of a string that is not all ASCII, for which Python takes up to four bytes each. No model reads as much."""

SPACE = b" \t\n\r"
MARKS = b'{}[],:"'
OPEN, CLOSE = b"{[", b"}]"
IS_MARK = np.isin(np.arange(256), list(MARKS))
DEPTHS = np.zeros(256, np.int64)
DEPTHS[list(OPEN)] = 1
DEPTHS[list(CLOSE)] = -1
SURROGATE = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
ESCAPE = re.compile(rb"(?P<pair>%s%s)|(?P<lone>%s|%s)|\\." % (*SURROGATE, *SURROGATE), re.DOTALL)
HIGH, LOW = map(re.compile, SURROGATE)
ESCAPE_BYTES = 6
"""Of the longest escape, half a surrogate pair."""
BYTE = re.compile(r" \(byte (\d+)\)")
"""Where msgspec's messages say that something is wrong."""


def decode(body: bytes | bytearray, body_type: type[T]) -> T:
    """Parse JSON of any size into a type; half a surrogate pair becomes U+FFFD.

    Raises:
        msgspec.ValidationError: it is not of this type.
        InvalidRequest: it is not JSON.
        RequestTooLarge: it has more values, or longer strings, than any request.
    """
    if len(body) > PIECE_BYTES:
        return msgspec.convert(_Pieces(body).parse(), body_type)
    containers = body.count(b"[") + body.count(b"{")
    if body.count(b",") > MAX_VALUES or containers > MAX_CONTAINERS or body.count(b":") > MAX_NAMES:
        _marks(body)
    return _decode(body, body_type)


def encode(content: object) -> bytes:
    """Write JSON, each element of a list by itself, and so on in lists of lists; one that two fields hold, once."""
    if isinstance(content, Struct):
        fields = {name: getattr(content, name) for name in content.__struct_fields__}
        lists = {name: value for name, value in fields.items() if isinstance(value, list)}
        written: dict[int, Raw] = {}
        for value in lists.values():
            if id(value) not in written:
                written[id(value)] = Raw(encode(value))
        raw = {name: written[id(value)] for name, value in lists.items()}
        return msgspec.json.encode(msgspec.structs.replace(content, **raw))
    if isinstance(content, list):
        return (
            b"["
            + b",".join(encode(one) if isinstance(one, list) else msgspec.json.encode(one) for one in content)
            + b"]"
        )
    return msgspec.json.encode(content)


def _decode(piece: bytes | bytearray, piece_type: type[T], offset: int = 0) -> T:
    """Parse what is no more than PIECE_BYTES; `offset` is its place in the body, for messages."""
    try:
        return msgspec.json.decode(piece, type=piece_type)
    except UnicodeDecodeError:
        _refuse(_utf8_problem(piece, offset))
    except RecursionError:
        _refuse("it is nested too deeply")
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError as exc:
        repaired = _without_lone_surrogates(piece)
        if repaired != piece:  # which has none any more
            return _decode(repaired, piece_type, offset)
        _refuse(BYTE.sub(lambda found: f" (byte {int(found[1]) + offset})", str(exc)))


def _refuse(problem: str) -> NoReturn:
    raise InvalidRequest(f"the body is not valid JSON: {problem}")


def _utf8_problem(piece: bytes | bytearray, offset: int) -> str:
    """msgspec counts from the beginning of the string."""
    try:
        piece.decode()
    except UnicodeDecodeError as exc:
        return f"it is not UTF-8: {exc.reason} (byte {exc.start + offset})"
    return "it is not UTF-8"


def _without_lone_surrogates(piece: bytes | bytearray) -> bytes | bytearray:
    return ESCAPE.sub(lambda found: rb"\ufffd" if found["lone"] else found[0], piece)


def _marks(body: bytes | bytearray) -> NDArray[np.int64]:
    """Where the characters in MARKS are, those in strings left out.

    Raises:
        RequestTooLarge: there are more values than any request has.
        InvalidRequest: a string has no end.
    """
    found: list[NDArray[np.int64]] = []
    commas = containers = names = marks = start = 0
    inside = False
    while start < len(body):
        # Escapes of two characters become two others; the left of a run comes first, as in a parser.
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
    if commas > MAX_VALUES or marks > len(MARKS) * MAX_VALUES:  # no JSON has more for so many commas
        raise RequestTooLarge(f"the body holds over {MAX_VALUES} values")
    if containers > MAX_CONTAINERS:
        raise RequestTooLarge(f"the body holds over {MAX_CONTAINERS} lists and objects")
    if names > MAX_NAMES:
        raise RequestTooLarge(f"the body holds over {MAX_NAMES} fields")


class _Pieces:
    """A body that is parsed piece by piece, given where its marks are.

    Spans are of bytes, from one place to before another; `first` and `last` are of their marks in the same way.
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
        """All of it."""
        return self._value(0, len(self._body), 0, len(self._at))

    def _value(self, start: int, stop: int, first: int, last: int) -> object:
        if stop - start <= PIECE_BYTES:
            return _decode(self._body[start:stop], Any, start)
        start = self._blank(start, stop)
        if start == stop:
            _refuse(f"expected a value (byte {start})")
        if first == last or self._at[first] != start:
            return self._scalar(start, stop)
        kind = self._kinds[first]
        if kind == ord('"'):
            self._end(int(self._at[first + 1]), stop)
            return self._string(start + 1, int(self._at[first + 1]))
        end = int(self._at[last - 1])
        if self._kinds[first : first + 1] + self._kinds[last - 1 : last] not in (b"[]", b"{}"):
            _refuse(f"what begins at byte {start} does not end")
        self._end(end, stop)
        depths = self._depths[first : last - 1]
        if depths.min() < depths[0]:
            _refuse(f"expected ',' or the end (byte {start})")
        if self._blank(start + 1, end) == end:
            return [] if kind == ord("[") else {}
        return self._list(first, last) if kind == ord("[") else self._object(first, last)

    def _list(self, first: int, last: int) -> list[object]:
        made: list[object] = []
        for start, stop, inner, outer, count in self._runs(first, last):
            if stop - start > PIECE_BYTES:
                made.append(self._value(start, stop, inner, outer))
                continue
            before = len(made)
            made += _decode(b"[" + self._body[start:stop] + b"]", list[Any], start - 1)
            if len(made) - before != count:
                _refuse(f"expected a value (byte {start})")
        return made

    def _object(self, first: int, last: int) -> dict[str, object]:
        made: dict[str, object] = {}
        for start, stop, inner, outer, _ in self._runs(first, last):
            if stop - start > PIECE_BYTES:
                name, value = self._pair(start, stop, inner, outer)
                made[name] = value
                continue
            run = _decode(b"{" + self._body[start:stop] + b"}", dict[str, Any], start - 1)
            if not run:
                _refuse(f"expected a name (byte {start})")
            made |= run
        return made

    def _pair(self, start: int, stop: int, first: int, last: int) -> tuple[str, object]:
        if self._kinds[first : first + 3] != b'"":' or last - first < 3:
            _refuse(f"expected a name and ':' (byte {start})")
        colon = int(self._at[first + 2])
        name = self._value(start, colon, first, first + 2)
        if not isinstance(name, str):
            _refuse(f"expected a name (byte {start})")
        return name, self._value(colon + 1, stop, first + 3, last)

    def _runs(self, first: int, last: int) -> Iterator[tuple[int, int, int, int, int]]:
        """What a list or an object holds: spans and marks of as many elements as make a piece, and how many they are;
        of one alone where it is larger."""
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
            cut = self._cut(start, stop)
            parts.append(_decode(b'"' + self._body[start:cut] + b'"', str, start - 1))
            length += len(parts[-1])
            if length > MAX_STRING:
                raise RequestTooLarge(f"a string has over {MAX_STRING} characters")
            if length > MAX_WIDE_STRING and not all(part.isascii() for part in parts):
                raise RequestTooLarge(f"a string that is not all ASCII has over {MAX_WIDE_STRING} characters")
            start = cut
        return "".join(parts)

    def _cut(self, start: int, stop: int) -> int:
        """Where to cut a string that goes on from `start`: no escape, surrogate pair or character is cut in two."""
        if stop - start <= PIECE_BYTES:
            return stop
        piece = self._body[start : start + PIECE_BYTES].replace(rb"\\", b"..")  # now a backslash begins an escape
        cut = piece.rfind(b"\\", len(piece) - ESCAPE_BYTES)
        if cut >= 0:
            before = cut - ESCAPE_BYTES
            if LOW.match(self._body, start + cut) and HIGH.match(piece, before):
                cut = before
            return start + cut
        cut = start + len(piece)
        for _ in range(3):
            if self._body[cut] & 0xC0 == 0x80:  # within a character of UTF-8
                cut -= 1
        return cut

    def _scalar(self, start: int, stop: int) -> object:
        """A number or a name with much space behind it."""
        token = self._body[start : min(start + PIECE_BYTES, stop)].split(maxsplit=1)[0]
        self._end(start + len(token) - 1, stop)
        return _decode(token, Any, start)

    def _blank(self, start: int, stop: int) -> int:
        """Where the space from `start` on ends."""
        while start < stop:
            piece = self._body[start : min(start + SCAN_BYTES, stop)]
            rest = piece.lstrip(SPACE)
            start += len(piece) - len(rest)
            if rest:
                break
        return start

    def _end(self, at: int, stop: int) -> None:
        """Refuse what follows on the end of a value."""
        if (after := self._blank(at + 1, stop)) != stop:
            _refuse(f"trailing characters (byte {after})")
