"""Decodes JSON into request types: strictly if possible, otherwise with tolerance for clients of other servers.

Clients send fields that this server does not have, null for the default, and "true" for true. None of these fails a
request: unknown fields are ignored and reported, null means the default, and "true" is a boolean. A field that would
change the response, but is not supported, is an error (`Refused`).
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import msgspec
import msgspec.inspect as types

from gateway.errors import InvalidRequest, quoted
from gateway.routes import large_json

T = TypeVar("T")

MISSING = "Object missing required field `"
"""The beginning of msgspec's message for a missing field."""
FLAGS = {"true": True, "false": False}
"""Booleans that some clients send as strings, in upper or lower case."""
MAX_IGNORED = 16
"""The most unknown fields that are reported; a body may hold hundreds of thousands."""

Ignored = Mapping[str, str]
"""Unknown fields, such as "documents[].id", each with its first occurrence, such as "documents[2].id"."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A field of other servers that is not supported and would change the response. Request types list theirs as
    `refused`."""

    reason: str
    """Why it is not supported, or what to send instead."""
    harmless: tuple[object, ...] = (False,)
    """Values that are accepted because they ask for what this server does anyway. null and empty values always are."""


@dataclass(slots=True)
class Shape:
    """What decoding needs to know about a type."""

    objects: dict[str | None, "Object"] = field(default_factory=dict)
    """The structs that a value may be, by tag."""
    tag_field: str | None = None
    items: "Shape | None" = None
    """The shape of a list's items; None if they need no attention."""
    is_flag: bool = False
    """Whether a value may be a boolean, but not any string."""
    choices: tuple[str, ...] = ()
    """The strings that a value may be, if it may not be any other."""


@dataclass(frozen=True, slots=True)
class Object:
    fields: Mapping[str, Shape]
    required: frozenset[str]
    refused: Mapping[str, Refused]


def decode(body: bytes | bytearray, body_type: type[T]) -> tuple[T, Ignored]:
    """Parse JSON into a type, and report unknown fields.

    Raises:
        InvalidRequest: the body is not JSON, is not of this type (names the field), or holds a refused field.
        RequestTooLarge: the body has more values than any valid request.
    """
    if len(body) > large_json.PIECE_BYTES:  # mending the parsed body is cheaper than parsing it twice
        return decode_one_of(body, lambda _: body_type)
    try:
        return large_json.decode(body, body_type), {}
    except msgspec.ValidationError:
        return decode_one_of(body, lambda _: body_type)


def decode_one_of(body: bytes | bytearray, choose: Callable[[object], type[T]]) -> tuple[T, Ignored]:
    """The same as `decode`, for the type that `choose` returns for the parsed JSON."""
    try:
        parsed = large_json.decode(body, Any)
    except msgspec.ValidationError as exc:
        raise _invalid(exc, {}) from exc
    return _convert(parsed, choose(parsed))


def convert(value: object, kind: type[T], place: str) -> T:
    """Convert a part of parsed JSON that its request type leaves open. Unknown fields in it are ignored.

    Args:
        value: the part.
        kind: what it must be.
        place: its field in error messages.

    Raises:
        InvalidRequest: it is not of this type (names the field), or holds a refused field.
    """
    try:
        return msgspec.convert(_mend(value, _shape_of(kind), place, place, {}), kind)  # type: ignore[arg-type]
    except msgspec.ValidationError as exc:
        message, _, inside = str(exc).partition(" - at `$")
        path = place + inside.rstrip("`")
        raise InvalidRequest(f"{path}: {message}", param=path) from exc


def _convert(parsed: object, body_type: type[T]) -> tuple[T, Ignored]:
    ignored: dict[str, str] = {}
    shape = _shape_of(body_type)  # type: ignore[arg-type] # types are hashable
    try:
        return msgspec.convert(_mend(parsed, shape, "", "", ignored), body_type), ignored
    except msgspec.ValidationError as exc:
        raise _invalid(exc, ignored) from exc


def _invalid(exc: msgspec.ValidationError, ignored: Ignored) -> InvalidRequest:
    """Rewrite a message of msgspec, which ends in the place, as in "... - at `$.input[0]`"."""
    message, _, place = str(exc).partition(" - at `$")
    path = place.rstrip("`").removeprefix(".")
    if message.startswith(MISSING):
        path = f"{path}.{message.removeprefix(MISSING).rstrip('`')}".removeprefix(".")
        message = f"{path} is required"
        if ignored:  # one of them may be a misspelling of the field
            message += f"; unknown fields: {', '.join(map(quoted, ignored.values()))}"
    elif path:
        message = f"{path}: {message}"
    return InvalidRequest(message, param=path or None)


def _mend(value: object, shape: Shape, path: str, place: str, ignored: dict[str, str]) -> object:
    """A value without unknown fields and nulls, and with booleans instead of "true" and "false".

    Args:
        value: parsed JSON.
        shape: of the expected type.
        path: the path without indexes, such as "documents[].id".
        place: the path with indexes, such as "documents[2].id".
        ignored: unknown fields are added to it.
    """
    if isinstance(value, str):
        flag = _flag(value) if shape.is_flag else value
        if shape.choices and isinstance(flag, str):
            _check_choice(flag, shape.choices, place)
        return flag
    if isinstance(value, dict):
        tag = value.get(shape.tag_field) if shape.tag_field else None
        if isinstance(tag, str):
            _check_choice(tag, tuple(map(str, shape.objects)), _join(place, str(shape.tag_field)))
        known = shape.objects.get(tag) if isinstance(tag, str | None) else None
        return value if known is None else _mend_object(value, known, shape.tag_field, path, place, ignored)
    if isinstance(value, list) and shape.items is not None:
        items, kinds = shape.items, (dict, list, str) if shape.items.choices else (dict, list)
        return [
            _mend(item, items, f"{path}[]", f"{place}[{i}]", ignored) if isinstance(item, kinds) else item
            for i, item in enumerate(value)
        ]
    return value


def _check_choice(value: str, choices: Sequence[str], place: str) -> None:
    if value not in choices:
        raise InvalidRequest(f"{place}: {quoted(value)} is not one of {', '.join(choices)}", param=place)


def _flag(value: str) -> str | bool:
    return FLAGS.get(value.lower(), value) if len(value) <= len("false") else value


def _mend_object(
    value: dict[str, object], known: Object, tag_field: str | None, path: str, place: str, ignored: dict[str, str]
) -> dict[str, object]:
    mended: dict[str, object] = {}
    for name, item in value.items():
        shape = known.fields.get(name)
        if shape is not None:
            if item is not None or name in known.required:
                mended[name] = _mend(item, shape, _join(path, name), _join(place, name), ignored)
        elif name == tag_field:
            mended[name] = item
        elif name in known.refused:
            _check_refused(item, known.refused[name], _join(place, name))
        elif len(ignored) < MAX_IGNORED:
            ignored.setdefault(_join(path, name), _join(place, name))
    return mended


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _check_refused(value: object, refused: Refused, place: str) -> None:
    is_empty = value is None or (isinstance(value, str | list | dict) and not value)
    if isinstance(value, str):
        value = _flag(value)
    if not is_empty and value not in refused.harmless:
        raise InvalidRequest(f"{place}: {refused.reason}", param=place)


@cache
def _shape_of(body_type: Hashable) -> Shape:
    return _shape(types.type_info(body_type))


def _shape(info: types.Type) -> Shape:
    shape = Shape()
    members = info.types if isinstance(info, types.UnionType) else (info,)
    for member in members:
        if isinstance(member, types.StructType):
            fields = {item.encode_name: _shape(item.type) for item in member.fields}
            required = frozenset(item.encode_name for item in member.fields if item.required)
            refused: Mapping[str, Refused] = getattr(member.cls, "refused", {})
            tag = member.tag if isinstance(member.tag, str) else None
            shape.objects[tag] = Object(fields, required, refused)
            shape.tag_field = member.tag_field
        elif isinstance(member, types.ListType):
            items = _shape(member.item_type)
            shape.items = items if items.objects or items.items or items.choices else None
    has_text = any(isinstance(member, types.StrType | types.AnyType) for member in members)
    shape.is_flag = any(isinstance(member, types.BoolType) for member in members) and not has_text
    if not has_text:
        literals = [value for member in members if isinstance(member, types.LiteralType) for value in member.values]
        shape.choices = tuple(value for value in literals if isinstance(value, str))
    return shape
