import pytest

from gateway.errors import InvalidRequest
from gateway.routes.content import (
    ContentPart,
    ImagePart,
    PixelBounds,
    TextPart,
    read_each,
    read_parts,
    read_pixels,
    simple,
)
from gateway.service.contents import NO_LIMITS, Picture
from tests.gateway.service.vision import PROCESSOR

PARTS: list[ContentPart] = [TextPart("a"), TextPart(""), TextPart("b"), ImagePart(" c "), TextPart("d"), TextPart("e")]
PICTURE = Picture("c", "query.content[3].image")


def test_texts_that_follow_each_other_are_one() -> None:
    """A query of thousands of parts is read with each of thousands of documents."""
    assert simple(read_parts(PARTS, "query.content")) == ["ab", PICTURE, "de"]
    assert simple(read_parts(PARTS[:3], "query.content")) == "ab"
    assert simple(read_parts(PARTS[3:4], "query.content")) == [Picture("c", "query.content[0].image")]


def test_each_part_keeps_its_place() -> None:
    assert read_each(PARTS, "query.content") == {
        "query.content[0]": "a",
        "query.content[1]": "",
        "query.content[2]": "b",
        "query.content[3]": [PICTURE],
        "query.content[4]": "d",
        "query.content[5]": "e",
    }


def test_limits_for_pixels_are_named_as_they_were_sent() -> None:
    assert read_pixels(None, None, PixelBounds()) == NO_LIMITS
    for limits, name in (
        (read_pixels(None, 9, None), "max_pixels"),
        (read_pixels(None, None, PixelBounds(max_pixels=9)), "mm_processor_kwargs.max_pixels"),
    ):
        with pytest.raises(InvalidRequest, match=f"^{name} must be from 64 to 4096, not 9") as caught:
            limits.of(PROCESSOR)
        assert caught.value.param == name
