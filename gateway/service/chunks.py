"""Splits texts into chunks that a model can take, between words where it can."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.catalog import TextModel
from gateway.errors import InvalidRequest, RequestTooLarge
from gateway.service import tokens
from gateway.service.caller import Caller
from gateway.service.text_batches import MAX_ROWS
from gateway.service.tokens import Text
from gateway.text.tokenizer import LocatedRow, PairFrame, TextTokenizer, Truncate

Span = tuple[int, int]
"""Start and end, in characters of a text."""

MAX_CHARACTERS = 2**21
"""Maximum length of a text in chunks, in characters: as much as is read of one text for a model of 32,768 tokens."""


@dataclass(frozen=True, slots=True)
class Chunking:
    """How to split texts."""

    max_tokens: int | None = None
    """Maximum number of a chunk's own tokens. None: as many as the model takes."""
    overlap: int = 0
    """How many tokens of a chunk, at most, are repeated at the beginning of the next."""
    max_chunks: int | None = None
    """Maximum number of chunks of a text. None: no limit."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a text, as a row of a model."""

    index: int
    """Position in the text's chunks."""
    row: list[int]
    """Token ids with special tokens and prompt, or in a frame."""
    tokens: int
    """How many of them are the chunk's own."""
    start: int
    """In characters of the text."""
    end: int


async def split(
    caller: Caller,
    model: TextModel,
    texts: Sequence[Text],
    places: Sequence[str],
    chunking: Chunking,
    *,
    truncate: Truncate,
    prompt: str = "",
    frame: PairFrame | None = None,
    max_text_tokens: int | None = None,
) -> list[list[Chunk]]:
    """The chunks of each text, in order: one if the text fits. Every chunk has the special tokens and the prompt.

    Args:
        caller: the request to work for.
        model: the model whose tokenizer is used.
        texts: texts, or token ids if there is no frame.
        places: the field of each text in error messages, such as "input[3]".
        chunking: how to split.
        truncate: what to do with what is over `max_text_tokens` or `chunking.max_chunks`.
        prompt: put before each chunk of a text, but not before token ids.
        frame: the query-document frame to put each chunk into.
        max_text_tokens: maximum number of a text's own tokens in all of its chunks.

    Raises:
        InvalidRequest: a text is over a limit or produces no tokens, there is no room for a chunk or the overlap is
            more than half of a chunk.
        RequestTooLarge: there are more than MAX_ROWS chunks or more than MAX_TOKENS in them.
        TokenizerFailed: the tokenizer raised an error.
    """
    for text, place in zip(texts, places, strict=True):
        if len(text) > MAX_CHARACTERS:
            raise InvalidRequest(
                f"{place} has {len(text)} characters; the limit of a text in chunks is {MAX_CHARACTERS}", param=place
            )
    tokens.check(model, texts, places, model.max_tokens, truncate="end")

    def read(part: slice) -> list[list[Chunk]]:
        return [
            _split(model, text, place, chunking, truncate, prompt, frame, max_text_tokens)
            for text, place in zip(texts[part], places[part], strict=True)
        ]

    chunks: list[list[Chunk]] = []
    total = count = 0
    remaining = iter(places)
    async with tokens.in_slices(caller, [tokens.ROW_CHARACTERS + len(text) for text in texts], read) as parts:
        async for fresh in parts:
            for of_text, place in zip(fresh, remaining, strict=False):
                count += len(of_text)
                if count > MAX_ROWS:
                    raise _too_many(place)
                total = tokens.add_tokens(total, [chunk.row for chunk in of_text], [place] * len(of_text))
            chunks += fresh
    return chunks


def _too_many(place: str) -> RequestTooLarge:
    return RequestTooLarge(
        f"the request has over {MAX_ROWS} chunks up to {place}; the limit is {MAX_ROWS}", param=place
    )


def _split(
    model: TextModel,
    text: Text,
    place: str,
    chunking: Chunking,
    truncate: Truncate,
    prompt: str,
    frame: PairFrame | None,
    max_text_tokens: int | None,
) -> list[Chunk]:
    located = _locate(model.tokenizer, text, prompt, frame)
    head, ids, tail, spans = located.head, located.ids, located.tail, located.spans
    if not (head or ids or tail):
        raise InvalidRequest(f"{place} produces no tokens with model {model.name!r}", param=place)
    after = tail if frame is None else frame.after
    room = model.max_tokens - len(head) - max(len(tail), len(after))
    room = min(room, chunking.max_tokens or room)
    if room < 1 or chunking.overlap > room // 2:
        raise InvalidRequest(
            f"{place} can be split into chunks of {max(room, 0)} tokens, which must be at least 1, and twice the"
            f" overlap of {chunking.overlap}",
            param=place,
        )
    first, last = 0, len(ids)
    if max_text_tokens is not None and last > max_text_tokens:
        _check_truncation(truncate, place, f"{last} tokens", max_text_tokens)
        first, last = (last - max_text_tokens, last) if truncate == "start" else (0, max_text_tokens)
    parts = []
    for part in _parts(text, spans, range(first, last), room, chunking.overlap):
        parts.append(part)
        if len(parts) > MAX_ROWS:
            raise _too_many(place)
    if chunking.max_chunks is not None and len(parts) > chunking.max_chunks:
        _check_truncation(truncate, place, f"{len(parts)} chunks", chunking.max_chunks)
        parts = parts[-chunking.max_chunks :] if truncate == "start" else parts[: chunking.max_chunks]
    return [
        Chunk(
            index,
            head + ids[part.start : part.stop] + (tail if part.stop == len(ids) else after),
            len(part),
            *_trimmed(text, spans, part),
        )
        for index, part in enumerate(parts)
    ]


def _locate(tokenizer: TextTokenizer, text: Text, prompt: str, frame: PairFrame | None) -> LocatedRow:
    if isinstance(text, str):
        return tokenizer.locate(text, prompt=prompt, frame=frame)
    first, last = len(tokenizer.before), len(text) - len(tokenizer.behind)
    return LocatedRow(text[:first], text[first:last], text[last:], [])


def _check_truncation(truncate: Truncate, place: str, what: str, limit: int) -> None:
    if truncate == "none":
        raise InvalidRequest(f"{place} has {what}; the limit is {limit}", param=place)


def _parts(text: Text, spans: Sequence[Span], whole: range, room: int, overlap: int) -> Iterator[range]:
    """Parts of up to `room` tokens, at least one. All but the last end within their last quarter, where it is best."""
    start, stop = whole.start, whole.stop
    while stop - start > room:
        end = start + room
        cut = max(range(end - room // 4, end + 1), key=lambda i: (_quality(text, spans, i), i))
        yield range(start, cut)
        start = max(range(cut - overlap, cut + 1), key=lambda i: (_quality(text, spans, i), -i))
    yield range(start, stop)


def _quality(text: Text, spans: Sequence[Span], index: int) -> int:
    """How good a place a token is to begin a chunk: 3 next to a space, 2 behind punctuation, 1 elsewhere, 0 within a
    character. Texts without spaces are thus cut at their punctuation, if it is near, or else between any two tokens."""
    if isinstance(text, list):
        return 0
    end, start = spans[index - 1][1], spans[index][0]
    if start != end:  # below it if both tokens are of one character
        return 3 if start > end else 0
    before, behind = text[start - 1 : start], text[start : start + 1]
    if before.isspace() or behind.isspace():
        return 3
    return 2 if behind.isalnum() and not before.isalnum() else 1


def _trimmed(text: Text, spans: Sequence[Span], part: range) -> Span:
    """The characters of a part, without spaces around them."""
    if isinstance(text, list) or not part:
        return 0, 0
    start, end = spans[part.start][0], spans[part.stop - 1][1]
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    return start, start + len(piece.strip())
