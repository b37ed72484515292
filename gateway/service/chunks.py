"""Splits texts into chunks that a model can take, between words if possible, and averages their vectors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from gateway.catalog import TextModel
from gateway.errors import InvalidRequest, RequestTooLarge
from gateway.service import tokens
from gateway.service.caller import Caller
from gateway.service.text_batches import MAX_ROWS
from gateway.service.tokens import MAX_TOKENS, Text
from gateway.text.tokenizer import LocatedRow, PairFrame, TextTokenizer, Truncate
from gateway.vectors import Floats, normalize

Span = tuple[int, int]
"""Start and end, in characters of a text."""

MAX_CHARACTERS = 2**20
"""Maximum length of a text in chunks, in characters: as much as is read of one text for a model of 16,384 tokens."""

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
    most = _max_tokens_read(model, chunking, max_text_tokens)
    for text, place in zip(texts, places, strict=True):
        check_length(text, place)
        if truncate == "none" and most is not None and isinstance(text, str):
            tokens.check_characters(len(text), place, most)
    tokens.check(model, texts, places, model.max_tokens, truncate="end")

    def read(part: slice) -> list[list[Chunk]]:
        return [
            _split(model, text, place, chunking, truncate, prompt, frame, max_text_tokens)
            for text, place in zip(texts[part], places[part], strict=True)
        ]

    chunks: list[list[Chunk]] = []
    total = count = 0
    remaining = iter(places)
    characters = MAX_CHARACTERS if most is None else most * tokens.MAX_CHARACTERS_PER_TOKEN
    sizes = [tokens.ROW_CHARACTERS + min(len(text), characters) for text in texts]
    async with tokens.in_slices(caller, sizes, read) as parts:
        async for fresh in parts:
            for of_text, place in zip(fresh, remaining, strict=False):
                count += len(of_text)
                if count > MAX_ROWS:
                    raise _too_many(place)
                total = tokens.add_tokens(total, [chunk.row for chunk in of_text], [place] * len(of_text))
            chunks += fresh
    return chunks


def check_length(text: Text, place: str) -> None:
    """Raise InvalidRequest if a text is over MAX_CHARACTERS."""
    if len(text) > MAX_CHARACTERS:
        raise InvalidRequest(
            f"{place} has {len(text)} characters; the limit of a text in chunks is {MAX_CHARACTERS}", param=place
        )


def _max_tokens_read(model: TextModel, chunking: Chunking, max_text_tokens: int | None) -> int | None:
    """The maximum number of tokens of a text that its limits leave. None: it has no limits."""
    limits = [max_text_tokens] if max_text_tokens is not None else []
    if chunking.max_chunks is not None:
        limits.append(chunking.max_chunks * min(chunking.max_tokens or model.max_tokens, model.max_tokens))
    return min(limits, default=None)


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
    most = _max_tokens_read(model, chunking, max_text_tokens)
    characters = None if most is None else most * tokens.MAX_CHARACTERS_PER_TOKEN
    limit = min(MAX_TOKENS, max_text_tokens or MAX_TOKENS)
    if isinstance(text, str):
        tokens.check_control(model, text, place)
    located = _locate(model.tokenizer, text, prompt, frame, characters, limit, truncate)
    head, ids, tail, spans = located.head, located.ids, located.tail, located.spans
    dropped = located.total - len(ids)
    if dropped and most is None:
        raise RequestTooLarge(
            f"{place} has {located.total} tokens; the limit of a request is {MAX_TOKENS}", param=place
        )
    if dropped:
        _check_truncation(truncate, place, f"{located.total} tokens", limit)
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
    found = _parts(text, spans, range(len(ids)), room, min(chunking.overlap, room // 2))
    if chunking.max_chunks is None:
        parts = list(islice(found, MAX_ROWS + 1))
    elif truncate == "end":
        parts = list(islice(found, chunking.max_chunks))
    else:
        parts = list(found)
        if len(parts) > chunking.max_chunks:
            _check_truncation(truncate, place, f"{len(parts)} chunks", chunking.max_chunks)
            parts = parts[-chunking.max_chunks :]
    if len(parts) > MAX_ROWS:
        raise _too_many(place)
    before = dropped if truncate == "start" else 0
    end = located.total - before  # of the text, as an index of `ids`; not among them if the end is dropped
    return [
        Chunk(
            index,
            head + ids[part.start : part.stop] + (tail if part.stop == end else after),
            *_trimmed(text, spans[part.start : part.stop]),
            len(head),
            range(before + part.start, before + part.stop),
            spans[part.start : part.stop],
        )
        for index, part in enumerate(parts)
    ]


def _locate(
    tokenizer: TextTokenizer,
    text: Text,
    prompt: str,
    frame: PairFrame | None,
    max_characters: int | None,
    max_tokens: int,
    truncate: Truncate,
) -> LocatedRow:
    """The row of a text, truncated to so many characters and tokens; their spans are those in all of the text."""
    if isinstance(text, str):
        skipped = max(len(text) - max_characters, 0) if max_characters and truncate == "start" else 0
        part = text[skipped:] if truncate == "start" else text[:max_characters]
        located = tokenizer.locate(part, prompt=prompt, frame=frame, limit=max_tokens, end=truncate)
        if not skipped:
            return located
        return replace(located, spans=[(start + skipped, end + skipped) for start, end in located.spans])
    first, last = len(tokenizer.before), len(text) - len(tokenizer.behind)
    ids = text[first:last]
    kept = ids[-max_tokens:] if truncate == "start" else ids[:max_tokens]
    return LocatedRow(text[:first], kept, text[last:], [], len(ids))


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
