import json
import random
import tracemalloc
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from gateway.errors import InvalidRequest, RequestTooLarge
from gateway.routes.large_json import (
    MAX_CONTAINERS,
    MAX_DEPTH,
    MAX_STRING,
    MAX_VALUES,
    MAX_WIDE_STRING,
    PIECE_BYTES,
    SMALL_BYTES,
    decode,
    encode,
)

SPACE = b" " * PIECE_BYTES
LONG = "a" * PIECE_BYTES


def written(value: object, *, ascii_only: bool = False) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only).encode()


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize(
    "value",
    [
        {"input": ["the quick, [brown] {fox}: " * 600] * 2048, "model": None},
        {"input": "漢字仮名" * (MAX_WIDE_STRING // 4)},
        {"input": ["a" * (MAX_WIDE_STRING - 1) + "😀"]},
        {"input": "😀" * (MAX_WIDE_STRING // 2)},
        {"input": '\\"' * (MAX_STRING // 4), "x": '\\\\"'},
        [LONG, [LONG, {LONG: 1, "b": [[LONG]]}], -2.5, True, None],
        [list(range(300_000)), {"a": [], "b": {}}],
    ],
)
def test_large_body_is_parsed_correctly(value: object, ascii_only: bool) -> None:
    assert decode(written(value, ascii_only=ascii_only), object) == value


def test_text_across_pieces_stays_whole() -> None:
    rng = random.Random(0)
    for _ in range(30):
        text = "".join(rng.choices(["a", '"', "\\", "é", "漢", "😀", ",", "\n"], k=997)) * (PIECE_BYTES // 997)
        start = "a" * rng.randrange(14)
        for ascii_only in (False, True):
            body = written([start + text, 1], ascii_only=ascii_only)
            assert decode(body, object) == [start + text, 1]


@pytest.mark.parametrize(
    "body",
    [
        b'["%s" 1]',
        b'["%s",]',
        b'["%s",,1]',
        b'[,"%s"]',
        b'["%s"',
        b'["%s',
        b'["%s"]]',
        b'["%s"}',
        b'["%s"][]',
        b'[["%s"][1]]',
        b'{"a" "%s"}',
        b'{"a":"%s",}',
        b'{1:"%s"}',
        b'{:"%s"}',
        b'{"a":"%s","b"}',
        b'{"a":"%s",1}',
        b'["%s\\x"]',
        b'["%s\n"]',
        b'["%s\xff"]',
        b'["%s\xf0\x9f\x98"]',
        b'"%s" 1',
        b'"%s"",',
        b'["%s",1' + SPACE + b"2]",
        b"[%s]",
    ],
)
def test_large_body_that_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="the body is not valid JSON"):
        decode(body % LONG.encode(), Any)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (SPACE + b"[]" + SPACE, []),
        (b"[" + SPACE + b"]", []),
        (b"{" + SPACE + b"}", {}),
        (b'{"a"' + SPACE + b":" + SPACE + b"1" + SPACE + b',"b":true' + SPACE + b"}", {"a": 1, "b": True}),
        (b"[" + SPACE + b'"a"' + SPACE + b",2" + SPACE + b"]", ["a", 2]),
        (SPACE + b'"a"' + SPACE, "a"),
    ],
)
def test_whitespace_between_values_is_ignored(body: bytes, value: object) -> None:
    assert decode(body, object) == value


@pytest.mark.parametrize("filling", ["", LONG])
@pytest.mark.parametrize("lone", ["\\ud83d", "\\uDE00", "\\ud83d\\ud83d", "\\ude00\\ud83d", "\\ud83dude00"])
def test_half_a_surrogate_pair_becomes_a_replacement_character(lone: str, filling: str) -> None:
    body = f'["{filling}{lone}\\ud83d\\ude00\\\\ud83d\\n"]'
    expected = json.loads(body)[0].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert decode(body.encode(), object) == [expected]


def test_surrogate_pair_among_halves_is_not_divided() -> None:
    for missing in range(30):
        start = "a" * (PIECE_BYTES - missing)
        body = f'"{start}\\ud83d\\ud83d\\ude00\\ude00{start}"'
        assert decode(body.encode(), str) == f"{start}\ufffd😀\ufffd{start}"


@pytest.mark.parametrize("before", [b"", b'"%s", ' % LONG.encode()])
def test_error_for_invalid_utf8_names_the_byte(before: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(b"[" + before + b'"abc\xff"]', Any)
    assert caught.value.message == (
        f"the body is not valid JSON: it is not UTF-8: invalid start byte (byte {len(before) + 5})"
    )


def test_error_for_invalid_json_names_the_byte() -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(b'["%s", 1x]' % LONG.encode(), Any)
    assert caught.value.message.endswith(f"(byte {PIECE_BYTES + 6})")


@pytest.mark.parametrize("value", [b"7", b'"a,b"', b'{"a": 1}', b'""'])
def test_more_values_than_a_request_can_have_are_refused(value: bytes) -> None:
    with pytest.raises(RequestTooLarge, match=f"more than ({MAX_VALUES} values|{MAX_CONTAINERS} lists and objects)"):
        decode(b"[" + b",".join([value] * (MAX_VALUES + 2)) + b"]", Any)


@pytest.mark.parametrize("value", [b"[]", b"{}", b"[["])
@pytest.mark.parametrize("filling", [b"", b'"%s",' % LONG.encode()])
def test_more_lists_and_objects_than_a_request_can_have_are_refused(value: bytes, filling: bytes) -> None:
    with pytest.raises(RequestTooLarge, match=f"more than {MAX_CONTAINERS} lists and objects"):
        decode(b"[" + filling + b",".join([value] * (MAX_CONTAINERS + 1)) + b"]", Any)


@pytest.mark.parametrize("text", ['",\\' * MAX_VALUES, "[{" * MAX_VALUES, "word, " * MAX_VALUES, '[\\"' * MAX_VALUES])
def test_marks_in_texts_are_not_counted(text: str) -> None:
    assert decode(written([text]), object) == [text]


@pytest.mark.parametrize("filling", ["", LONG])
def test_deep_nesting_is_refused(filling: str) -> None:
    body = f'["{filling}",' + "[" * 5000 + "]" * 5000 + "]"
    with pytest.raises(InvalidRequest, match="it is nested too deeply"):
        decode(body.encode(), Any)
    body = f'["{filling}",' + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1) + "]"
    assert decode(body.encode(), list[Any])


def test_too_long_string_is_refused() -> None:
    with pytest.raises(RequestTooLarge, match=f"a string has more than {MAX_STRING} characters"):
        decode(written(["a" * (MAX_STRING + 1)]), Any)
    with pytest.raises(RequestTooLarge, match=f"a non-ASCII string has more than {MAX_WIDE_STRING} characters"):
        decode(written(["é" + "a" * MAX_WIDE_STRING]), Any)


class Body(msgspec.Struct):
    items: list[str | list[int]]


@pytest.mark.parametrize("filling", ["a", LONG])
def test_type_is_checked_in_a_body_of_any_size(filling: str) -> None:
    assert decode(written({"items": [filling, [1]]}), Body) == Body([filling, [1]])
    with pytest.raises(msgspec.ValidationError, match=r"Expected `str \| array`, got `bool` - at `\$.items\[1\]`"):
        decode(written({"items": [filling, True]}), Body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"items": ["%s"]}' % b'","'.join([b"a" * 16_000] * 2000),
        b'{"items": ["%s"]}' % b'","'.join([("a" * (MAX_WIDE_STRING - 4) + "😀").encode()] * 7),
        b'{"items": ["%s"]}' % (b"\\u6f22" * MAX_WIDE_STRING),
    ],
)
def test_parsing_takes_less_than_six_times_the_body(body: bytes) -> None:
    tracemalloc.start()
    try:
        decode(body, Body)
        assert tracemalloc.get_traced_memory()[1] < 5 * len(body)  # and the body itself
    finally:
        tracemalloc.stop()


NUMBERS = msgspec.Raw(b"[%s]" % b",".join(b"%d" % i for i in range(SMALL_BYTES)))


class Answer(msgspec.Struct, tag_field="kind", tag="answer", omit_defaults=True):
    name: str
    rows: list[msgspec.Raw | list[int]]
    texts: list[str] | None = None


@pytest.mark.parametrize(
    "content",
    [
        Answer("a", [msgspec.Raw(b"[1.5]"), [1, 2]], ["b", '"']),
        [[1], [], [[Answer("a", [])]]],
        [],
        {"a": [1]},
        7,
        [*range(1000), None, "a"],
        [{"a\0": [{}, {"b": []}, LONG]}, LONG, "\0"],
        Answer(LONG, [NUMBERS, [7], NUMBERS, msgspec.Raw(b"8")], [LONG, "é"]),
        {"large": NUMBERS, "list": [NUMBERS, NUMBERS], "small": msgspec.Raw(b"1")},
        [Answer("a", [NUMBERS]), Answer("b", [])] * 300,
    ],
)
def test_answer_is_written_as_msgspec_writes_it(content: object) -> None:
    assert b"".join(encode(content)) == msgspec.json.encode(content)


def test_large_json_in_an_answer_is_not_copied() -> None:
    vectors = [[msgspec.Raw(b"[%s]" % (b"%d," % i * 2**19)) for i in range(10)] for _ in range(2)]
    size = len(msgspec.json.encode(vectors))
    tracemalloc.start()
    try:
        assert sum(map(len, encode(Answer("a", [*vectors[0]], None)))) > size / 2
        parts = encode([{"embedding": vectors[0]}, {"embedding": vectors[1]}])
        assert sum(map(len, parts)) > size
        assert tracemalloc.get_traced_memory()[1] < size / 100
    finally:
        tracemalloc.stop()


class Twice(msgspec.Struct):
    results: list[int]
    data: list[int]


class Counted(list[int]):
    read = 0

    def __iter__(self) -> Iterator[int]:
        self.read += 1
        return super().__iter__()


def test_list_that_two_fields_hold_is_written_once() -> None:
    numbers = Counted([1, 2])
    assert b"".join(encode(Twice(numbers, numbers))) == b'{"results":[1,2],"data":[1,2]}'
    assert numbers.read == 1
