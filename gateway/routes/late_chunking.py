"""The document and the chunks of a request for late chunking."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.errors import InvalidRequest
from gateway.service.chunks import Span
from gateway.service.embed import Item
from gateway.service.late_chunking import FIELD


@dataclass(frozen=True, slots=True)
class Document:
    """A text and its parts."""

    text: str
    parts: list[Span] | None
    """Start and end of each, in characters. None: its sentences."""
    places: list[str]
    """The field of each in error messages, unless they are sentences."""


def joined(items: Sequence[Item]) -> Document:
    """The document whose parts are the items, as in Jina's API. A space joins them where there is none.

    Raises:
        InvalidRequest: an item is not a text, or is empty.
    """
    pieces: list[str] = []
    parts: list[Span] = []
    length = 0
    last = ""
    for item in items:
        text = _text(item)
        if last and not last[-1].isspace() and not text[0].isspace():
            pieces.append(" ")
            length += 1
        parts.append((length, length + len(text)))
        pieces.append(text)
        length, last = length + len(text), text
    return Document("".join(pieces), parts, [item.place for item in items])


def divided(item: Item, spans: Sequence[Span] | None) -> Document:
    """The document that is one item, with the parts that the client names, or its sentences.

    Raises:
        InvalidRequest: the item is not a text, or a span is outside the text.
    """
    text = _text(item)
    if spans is None:
        return Document(text, None, [])
    for index, (start, end) in enumerate(spans):
        if not 0 <= start < end <= len(text):
            raise InvalidRequest(
                f"chunk_spans[{index}] is {start} to {end}; it must be within the {len(text)} characters of input, and"
                " must not be empty",
                param=f"chunk_spans[{index}]",
            )
    return Document(text, list(spans), [f"chunk_spans[{index}]" for index in range(len(spans))])


def _text(item: Item) -> str:
    if item.image is not None or not isinstance(item.text, str):
        raise InvalidRequest(f"{item.place} is not a text; {FIELD} takes texts only", param=item.place)
    if not item.text:
        raise InvalidRequest(f"{item.place} is empty", param=item.place)
    return item.text
