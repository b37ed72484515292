"""JSON into the types of requests: strictly where that works, and otherwise as clients of other servers write it.

Clients send fields that this server does not have, null where they have nothing to say, and "true" for true. None of
these fails a request: unknown fields are left out and told, null means the default, and "true" is a boolean. What would
change the answer and cannot be had is refused (`Refused`).
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import msgspec
import msgspec.inspect as types

from gateway.errors import InvalidRequest, quoted
from gateway.routes import large_json

T = TypeVar("T")

MISSING = "Object missing required field `"
"""How msgspec's message begins that names one."""
FLAGS = {"true": True, "false": False}
"""Booleans as some clients write them, in any case."""
MAX_CHOICE = 1000
"""Characters of a string where there are a few to choose from; msgspec's message quotes all of a longer one."""
MAX_IGNORED = 16
"""Fields that are told; a body may hold hundreds of thousands."""

Ignored = Mapping[str, str]
"""Unknown fields, such as "documents[].id", and where each stands first, such as "documents[2].id"."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A field that other servers have, and that would change the answer. Types of requests list theirs as `refused`."""

    reason: str
    """Why it cannot be had here, or what to send instead."""
    harmless: tuple[object, ...] = (False,)
    """Values that ask for what this server does anyway. null and what is empty always do."""


@dataclass(slots=True)
class Shape:
    """What of a type matters here."""

    objects: dict[str | None, "Object"] = field(default_factory=dict)
    """Structs that a value may be, by tag."""
    tag_field: str | None = None
    items: "Shape | None" = None
    """Of a list; None where there is nothing to look for in its items."""
    is_flag: bool = False
    """Whether it may be a boolean, and no text."""
    is_choice: bool = False
    """Whether it may be one of a few strings, and no other."""


@dataclass(frozen=True, slots=True)
class Object:
    """A struct."""

    fields: Mapping[str, Shape]
    required: frozenset[str]
    refused: Mapping[str, Refused]


def decode(body: bytes | bytearray, body_type: type[T]) -> tuple[T, Ignored]:
    """Parse JSON into a type, beside the fields that are unknown there.

    Raises:
        InvalidRequest: it is not JSON, not of this type (names the field), or holds a field that is refused.
        RequestTooLarge: it has more values than any request.
    """
    if len(body) > large_json.PIECE_BYTES:  # to look at it again is cheaper than to parse it again
        return decode_one_of(body, lambda _: body_type)
    try:
        return large_json.decode(body, body_type), {}
    except msgspec.ValidationError:
        return decode_one_of(body, lambda _: body_type)


def decode_one_of(body: bytes | bytearray, choose: Callable[[object], type[T]]) -> tuple[T, Ignored]:
    """Parse JSON into the type that `choose` gives for it; otherwise as `decode`."""
    try:
        parsed = large_json.decode(body, Any)
    except msgspec.ValidationError as exc:
        raise _invalid(exc, {}) from exc
    return _convert(parsed, choose(parsed))


def _convert(parsed: object, body_type: type[T]) -> tuple[T, Ignored]:
    ignored: dict[str, str] = {}
    shape = _shape_of(body_type)  # type: ignore[arg-type] # types can be hashed
    try:
        return msgspec.convert(_mend(parsed, shape, "", "", ignored), body_type), ignored
    except msgspec.ValidationError as exc:
        raise _invalid(exc, ignored) from exc


def _invalid(exc: msgspec.ValidationError, ignored: Ignored) -> InvalidRequest:
    """What is wrong, in our words; msgspec's messages end in the place: "... - at `$.input[0]`"."""
    message, _, place = str(exc).partition(" - at `$")
    path = place.rstrip("`").removeprefix(".")
    if message.startswith(MISSING):
        path = f"{path}.{message.removeprefix(MISSING).rstrip('`')}".removeprefix(".")
        message = f"{path} is required"
        if ignored:  # one of them may be the field, misspelt
            message += f"; unknown fields: {', '.join(map(quoted, ignored.values()))}"
    elif path:
        message = f"{path}: {message}"
    return InvalidRequest(message, param=path or None)


def _mend(value: object, shape: Shape, path: str, place: str, ignored: dict[str, str]) -> object:
    """A value without unknown fields and nulls, its booleans as such.

    Args:
        value: of JSON.
        shape: of the type that it should have.
        path: where it stands in all bodies, such as "documents[].id".
        place: where it stands in this one, such as "documents[2].id".
        ignored: takes the unknown fields.
    """
    if isinstance(value, str):
        if shape.is_choice:
            _check_choice(value, place)
        return _flag(value) if shape.is_flag else value
    if isinstance(value, dict):
        tag = value.get(shape.tag_field) if shape.tag_field else None
        if isinstance(tag, str):
            _check_choice(tag, _join(place, str(shape.tag_field)))
        known = shape.objects.get(tag) if isinstance(tag, str | None) else None
        return value if known is None else _mend_object(value, known, shape.tag_field, path, place, ignored)
    if isinstance(value, list) and shape.items is not None:
        items, kinds = shape.items, (dict, list, str) if shape.items.is_choice else (dict, list)
        return [
            _mend(item, items, f"{path}[]", f"{place}[{i}]", ignored) if isinstance(item, kinds) else item
            for i, item in enumerate(value)
        ]
    return value


def _check_choice(value: str, place: str) -> None:
    if len(value) > MAX_CHOICE:
        raise InvalidRequest(f"{place}: Invalid value of {len(value)} characters", param=place)


def _flag(value: str) -> str | bool:
    return FLAGS.get(value.lower(), value) if len(value) <= len("false") else value


def _mend_object(
    value: dict[str, object], known: Object, tag_field: str | None, path: str, place: str, ignored: dict[str, str]
) -> dict[str, object]:
    mended: dict[str, object] = {}
    for name, given in value.items():
        shape = known.fields.get(name)
        if shape is not None:
            if given is not None or name in known.required:
                mended[name] = _mend(given, shape, _join(path, name), _join(place, name), ignored)
        elif name == tag_field:
            mended[name] = given
        elif name in known.refused:
            _check(_join(place, name), given, known.refused[name])
        elif len(ignored) < MAX_IGNORED:
            ignored.setdefault(_join(path, name), _join(place, name))
    return mended


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _check(place: str, given: object, refused: Refused) -> None:
    is_empty = given is None or (isinstance(given, str | list | dict) and not given)
    if isinstance(given, str):
        given = _flag(given)
    if not is_empty and given not in refused.harmless:
        raise InvalidRequest(f"{place}: {refused.reason}", param=place)


@cache
def _shape_of(body_type: Hashable) -> Shape:
    return _shape(types.type_info(body_type))


def _shape(info: types.Type) -> Shape:
    shape = Shape()
    members = info.types if isinstance(info, types.UnionType) else (info,)
    for member in members:
        if isinstance(member, types.StructType):
            fields = {one.encode_name: _shape(one.type) for one in member.fields}
            required = frozenset(one.encode_name for one in member.fields if one.required)
            refused: Mapping[str, Refused] = getattr(member.cls, "refused", {})
            tag = member.tag if isinstance(member.tag, str) else None
            shape.objects[tag] = Object(fields, required, refused)
            shape.tag_field = member.tag_field
        elif isinstance(member, types.ListType):
            items = _shape(member.item_type)
            shape.items = items if items.objects or items.items or items.is_choice else None
    has_text = any(isinstance(member, types.StrType | types.AnyType) for member in members)
    shape.is_flag = any(isinstance(member, types.BoolType) for member in members) and not has_text
    shape.is_choice = any(isinstance(member, types.LiteralType) for member in members) and not has_text
    return shape
