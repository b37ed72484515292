"""Splits texts into chunks that a model can take, between words if possible, and averages their vectors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gateway.catalog import TextModel
from gateway.errors import InvalidRequest, RequestTooLarge
from gateway.service import tokens
from gateway.service.caller import Caller
from gateway.service.text_batches import MAX_ROWS
from gateway.service.tokens import Text
from gateway.text.tokenizer import LocatedRow, PairFrame, TextTokenizer, Truncate
from gateway.vectors import Floats, normalize

Span = tuple[int, int]
"""Start and end, in characters of a text."""

MAX_CHARACTERS = 2**21
"""Maximum length of a text in chunks, in characters: as much as is read of one text for a model of 32,768 tokens."""


WORD = 3
"""See `_quality`."""
MARKS = frozenset(".!?…")
"""The last characters of sentences in texts with spaces."""


@dataclass(frozen=True, slots=True)
class Chunking:
    """How to split texts."""

    max_tokens: int | None = None
    """Maximum number of a chunk's own tokens. None: as many as the model takes."""
    overlap: int = 0
    """How many tokens of a chunk, at most half of it, are repeated at the beginning of the next."""
    max_chunks: int | None = None
    """Maximum number of chunks of a text. None: no limit."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a text, as a row of a model."""

    index: int
    """Position in the text's chunks."""
    row: list[int]
    """Token ids with special tokens and prompt, or in a frame."""
    start: int
    """In characters of the text, without spaces around it."""
    end: int
    head: int = 0
    """How many ids of the row are before its own."""
    tokens: range = range(0)
    """Which of the text's own tokens are in it."""
    spans: Sequence[Span] = ()
    """The characters of each of them; empty if the text is token ids."""


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
        InvalidRequest: a text is over a limit or produces no tokens, or there is no room for a chunk.
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
    if room < 1:
        raise InvalidRequest(
            f"{place} leaves no room for a chunk within the {model.max_tokens} tokens of model {model.name!r}",
            param=place,
        )
    first, last = 0, len(ids)
    if max_text_tokens is not None and last > max_text_tokens:
        _check_truncation(truncate, place, f"{last} tokens", max_text_tokens)
        first, last = (last - max_text_tokens, last) if truncate == "start" else (0, max_text_tokens)
    parts = []
    for part in _parts(text, spans, range(first, last), room, min(chunking.overlap, room // 2)):
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
            *_trimmed(text, spans[part.start : part.stop]),
            len(head),
            part,
            spans[part.start : part.stop],
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
    """Parts of up to `room` tokens, at least one. All but the last end where it is best in their last quarter."""
    start, stop = whole.start, whole.stop
    while stop - start > room:
        end = start + room
        cut = max(range(end - room // 4, end + 1), key=lambda i: (_quality(text, spans, i), i))
        yield range(start, cut)
        start = max(range(cut - overlap, cut + 1), key=lambda i: (min(_quality(text, spans, i), WORD), -i))
    yield range(start, stop)


def _quality(text: Text, spans: Sequence[Span], index: int) -> int:
    """How good it is to begin a chunk with a token: the first of a sentence (4) or a word (WORD), one after punctuation
    (2), any other (1), or one within a character (0)."""
    if isinstance(text, list):
        return 0
    end, start = spans[index - 1][1], spans[index][0]
    if start < end:  # both tokens are of one character
        return 0
    before, behind = text[end - 1 : end], text[start : start + 1]
    if start > end or before.isspace() or behind.isspace():
        return 4 if before in MARKS else WORD
    return 2 if behind.isalnum() and not before.isalnum() else 1


def _trimmed(text: Text, spans: Sequence[Span]) -> Span:
    """The characters from the first to the last span, without spaces around them."""
    if isinstance(text, list) or not spans:
        return 0, 0
    start, end = spans[0][0], spans[-1][1]
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    return start, start + len(piece.strip())


def mean(vectors: Floats, split: Sequence[Sequence[Chunk]]) -> Floats:
    """One vector for each text, given those of all chunks, [n, d].

    The vector of several chunks is the mean of their unit vectors, weighted by their tokens and scaled to length 1, as
    in vLLM's chunked processing and in LangChain's OpenAIEmbeddings.
    """
    means = np.empty((len(split), vectors.shape[1]), np.float32)
    start = 0
    for index, of_text in enumerate(split):
        of_chunks = vectors[start : start + len(of_text)]
        start += len(of_text)
        if len(of_text) > 1:
            weights = np.array([[len(chunk.tokens)] for chunk in of_text], np.float32)
            of_chunks = normalize((normalize(of_chunks) * weights).sum(axis=0, keepdims=True))
        means[index] = of_chunks[0]
    return means
