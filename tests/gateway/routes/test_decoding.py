import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import pytest
from msgspec import Struct

from gateway.errors import MAX_MESSAGE, InvalidRequest
from gateway.routes.decoding import MAX_IGNORED, Refused, decode, decode_one_of
from gateway.routes.large_json import PIECE_BYTES


class Inner(Struct, forbid_unknown_fields=True):
    text: str
    refused: ClassVar[Mapping[str, Refused]] = {"sound": Refused("there is none here")}


class First(Struct, tag_field="type", tag="first", forbid_unknown_fields=True):
    one: int | None = None


class Second(Struct, tag_field="type", tag="second", forbid_unknown_fields=True):
    two: int = 2


class Body(Struct, forbid_unknown_fields=True):
    items: list[str | int | list[int] | Inner]
    size: int = 0
    cut: bool | Literal["START"] | None = None
    flag: bool = True
    name: str | None = None
    parts: list[First | Second] = []
    kinds: Literal["a", "b"] | list[Literal["a", "b"]] | None = None
    refused: ClassVar[Mapping[str, Refused]] = {
        "chunks": Refused("texts are never chunked"),
        "kind": Refused("there is one kind", ("only",)),
    }


def decoded(**body: Any) -> tuple[Body, Mapping[str, str]]:
    return decode(json.dumps(body).encode(), Body)


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (b'{"items": ["a", 1.5]}', "items[1]", "items[1]: Expected `int | str | object | array`, got `float`"),
        (b'{"items": [["5"]]}', "items[0][0]", "items[0][0]: Expected `int`, got `str`"),
        (b'{"items": [null]}', "items[0]", "items[0]: Expected"),
        (b'{"items": null}', "items", "items: Expected `array`, got `null`"),
        (b'{"items": [], "size": "5"}', "size", "size: Expected `int`, got `str`"),
        (b'{"items": [], "flag": "yes"}', "flag", "flag: Expected `bool`, got `str`"),
        (b'{"items": [], "flag": 1}', "flag", "flag: Expected `bool`, got `int`"),
        (b'{"items": [], "chunks": 3}', "chunks", "chunks: texts are never chunked"),
        (b'{"items": [], "kind": "other"}', "kind", "kind: there is one kind"),
        (b'{"items": [{"text": "a", "sound": "b"}]}', "items[0].sound", "items[0].sound: there is none here"),
        (b'{"items": [{"txt": "a"}]}', "items[0].text", "items[0].text is required; unknown fields: 'items[0].txt'"),
        (
            b'{"items": [], "parts": [{"type": "third"}]}',
            "parts[0].type",
            "parts[0].type: 'third' is not one of first, second",
        ),
        (b'{"item": []}', "items", "items is required; unknown fields: 'item'"),
        (b"{}", "items", "items is required"),
        (b"[]", None, "Expected `object`, got `array`"),
        (b'{"items": [', None, "the body is not valid JSON"),
        (b'{"x": 1, "items": [', None, "the body is not valid JSON"),
        (b'{"items": ["\xff"]}', None, "the body is not valid JSON"),
        (b"", None, "the body is not valid JSON"),
        (b"[" * 30_000, None, ""),
        (b'{"x": ' + b"[" * 30_000, None, ""),
    ],
)
def test_wrong_body_names_the_field(body: bytes, param: str | None, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(body, Body)
    assert caught.value.param == param
    assert caught.value.message.startswith(message)


def test_unknown_fields_are_ignored_and_reported_with_their_first_place() -> None:
    body, ignored = decoded(
        items=["a", {"text": "b", "id": 1}, {"text": "c", "id": 2}],
        colour={"a": 1},
        parts=[{"type": "second", "one": 1}, {"type": "first", "one": 1}],
    )
    assert body == Body(["a", Inner("b"), Inner("c")], parts=[Second(), First(1)])
    assert ignored == {"items[].id": "items[1].id", "colour": "colour", "parts[].one": "parts[0].one"}


def test_number_of_reported_unknown_fields_is_limited() -> None:
    _, ignored = decoded(items=[], **{f"x{i}": i for i in range(1000)})
    assert len(ignored) == MAX_IGNORED


def test_null_means_the_default_also_inside_objects() -> None:
    body, ignored = decoded(
        items=[{"text": "a", "sound": None}], size=None, flag=None, parts=[{"type": "second", "two": None}], chunks=None
    )
    assert body == Body([Inner("a")], parts=[Second()])
    assert not ignored


def test_booleans_may_be_strings_and_strings_stay_what_they_are() -> None:
    body, _ = decoded(items=["true", "5", "null"], cut="True", flag="false", name="false")
    assert body == Body(["true", "5", "null"], cut=True, flag=False, name="false")
    assert decoded(items=[], cut="START", flag="TRUE")[0] == Body([], cut="START")


@pytest.mark.parametrize("harmless", [False, None, "", [], {}, "false", 0])
def test_refused_fields_may_have_harmless_values(harmless: Any) -> None:
    assert decoded(items=[], chunks=harmless, kind="only") == (Body([]), {})


LONG = "\x7f" * (PIECE_BYTES + 1)


class Some(Struct):
    items: list[str] = []


class Other(Struct):
    other: str


def test_large_body_is_read_like_a_small_one() -> None:
    body, ignored = decoded(items=[LONG, {"text": "b", "id": 1}], size=None, flag="false", cut="START", kinds=["a"])
    assert body == Body([LONG, Inner("b")], flag=False, cut="START", kinds=["a"])
    assert ignored == {"items[].id": "items[1].id"}
    with pytest.raises(InvalidRequest, match="unknown fields: 'itms'"):
        decoded(itms=[LONG])


@pytest.mark.parametrize("text", ["a", LONG])
def test_type_is_chosen_by_the_content_of_the_body(text: str) -> None:
    def choose(parsed: object) -> type[Other] | type[Some]:
        return Other if isinstance(parsed, dict) and "other" in parsed else Some

    assert decode_one_of(json.dumps({"other": text}).encode(), choose) == (Other(text), {})
    assert decode_one_of(json.dumps({"items": [text], "more": 1}).encode(), choose) == (Some([text]), {"more": "more"})
    with pytest.raises(InvalidRequest, match="items: Expected `array`"):
        decode_one_of(json.dumps({"items": 1}).encode(), choose)


@pytest.mark.parametrize("text", ["c" * 1000, LONG])
@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"cut": ...}, "cut"),
        ({"kinds": ...}, "kinds"),
        ({"kinds": ["a", ...]}, "kinds[1]"),
        ({"parts": [{"type": ...}]}, "parts[0].type"),
    ],
)
def test_long_string_for_a_fixed_set_of_values_is_shortened(body: dict[str, Any], place: str, text: str) -> None:
    written = json.dumps({"items": [], **body}, default=lambda _: text)
    with pytest.raises(InvalidRequest) as caught:
        decode(written.encode(), Body)
    assert caught.value.param == place
    assert caught.value.message.startswith(f"{place}: {text[:50]!r}"[:-1])
    assert len(caught.value.message) <= MAX_MESSAGE + len("...")


def test_long_name_of_an_unknown_field_is_shortened() -> None:
    with pytest.raises(InvalidRequest) as caught:
        decoded(**{LONG: 1})
    assert caught.value.message == f"items is required; unknown fields: {LONG[:200]!r}"[:500] + "..."
