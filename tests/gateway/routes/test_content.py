from gateway.routes.content import ContentPart, ImagePart, TextPart, read_each, read_parts, simple
from gateway.service.contents import Picture

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
