"""Texts to token ids within a model's limits, at a cost that the limits bound too."""

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import TypeVar

from gateway.catalog import TextModel
from gateway.errors import InvalidRequest, RequestTooLarge
from gateway.service.caller import Caller
from gateway.service.gather import ahead
from gateway.text.tokenizer import Frame, Piece, Truncate

Written = TypeVar("Written")
Result = TypeVar("Result")
Text = str | list[int]
"""Text, or token ids of the model's own vocabulary, special tokens included, taken as they are."""

MAX_TOKENS = 300_000
"""In one request; a query that is read together with every document counts with each."""
CHARACTERS_A_TOKEN = 64
"""No more of a text is read than this many characters for each token that the model takes. Real text has 2 to 6."""
USUAL_CHARACTERS = 4
"""For a token, about, where nothing depends on how many there are."""
SLICE_CHARACTERS = 32_768
"""Tokenised in one turn, unless one text alone has more: 8 ms of work, or 130 ms of text that was made to be slow."""
ROW_CHARACTERS = 16
"""A text costs as much as if it were so much longer."""


def estimate(text: Text) -> int:
    """About how many tokens a text has; at least one."""
    return len(text) if isinstance(text, list) else 1 + len(text) // USUAL_CHARACTERS


async def encode(
    caller: Caller,
    model: TextModel,
    texts: Sequence[Text],
    places: Sequence[str],
    limit: int,
    *,
    truncate: Truncate,
    frame: Frame | None = None,
) -> list[list[int]]:
    """Token ids of each text, special tokens included, at most `limit` of them, or of the row it makes in a frame.

    Args:
        caller: on whose behalf.
        model: whose tokenizer and vocabulary count.
        texts: none of them empty, unless the model should see nothing but what is put around it.
        places: what error messages call each text, such as "input[3]".
        limit: tokens a text may have, those of the frame not counted.
        truncate: what to do with texts over the limit.
        frame: put around every text, none of which is token ids then.

    Raises:
        InvalidRequest: a text is over the limit or makes no tokens, or token ids are not the model's.
        RequestTooLarge: all are more than MAX_TOKENS.
        TokenizerFailed: the tokenizer does.
    """
    check(model, texts, places, limit, truncate=truncate)
    beside = len(frame.before) + len(frame.text) + len(frame.tail) if frame is not None else 0
    most = limit * CHARACTERS_A_TOKEN
    sizes = [ROW_CHARACTERS + beside + min(len(text), most) for text in texts]

    def read(part: slice) -> list[list[int]]:
        return encode_now(model, texts[part], places[part], limit, truncate=truncate, frame=frame)

    encoded: list[list[int]] = []
    total = 0
    left = iter(places)
    async with in_slices(caller, sizes, read) as rows:
        async for fresh in rows:
            total = count(total, fresh, left)
            encoded += fresh
    return encoded


def check(model: TextModel, texts: Sequence[Text], places: Sequence[str], limit: int, *, truncate: Truncate) -> None:
    """Refuse what can be seen to be wrong before any text is tokenised."""
    for text, place in zip(texts, places, strict=True):
        if isinstance(text, list):
            if truncate == "none":  # of a few hundred ids, not of hundreds of thousands, each is looked at
                _check_tokens(model, len(text), place, limit)
            _check_ids(model, text, place)
        elif truncate == "none":
            _check_characters(text, place, limit)


def encode_now(
    model: TextModel,
    texts: Sequence[Text],
    places: Sequence[str],
    limit: int,
    *,
    truncate: Truncate,
    frame: Frame | None = None,
) -> list[list[int]]:
    """What `encode` does, here, for texts that have been checked."""
    most = limit * CHARACTERS_A_TOKEN
    part = slice(-most, None) if truncate == "start" else slice(most)
    around = frame.length if frame is not None else 0
    fresh = iter(model.tokenizer.encode([text[part] for text in texts if isinstance(text, str)], frame))
    encoded: list[list[int]] = []
    for text, place in zip(texts, places, strict=True):
        ids = next(fresh) if isinstance(text, str) else text
        if not ids:
            raise InvalidRequest(f"{place} produces no tokens with model {model.name!r}", param=place)
        if truncate == "none":
            _check_tokens(model, len(ids) - around, place, limit, "" if frame is None else " with this query")
        encoded.append(model.tokenizer.cut(ids, around + limit, frame, truncate))
    return encoded


def count(total: int, rows: Iterable[Sequence[int]], places: Iterable[str]) -> int:
    """How many tokens there are with those of more rows, whose places come next.

    Raises:
        RequestTooLarge: over MAX_TOKENS.
    """
    for ids, place in zip(rows, places, strict=False):
        total += len(ids)
        if total > MAX_TOKENS:
            raise RequestTooLarge(
                f"the request has {total} tokens up to {place}; the limit is {MAX_TOKENS}", param=place
            )
    return total


async def pieces(
    caller: Caller, model: TextModel, texts: Sequence[str], write: Callable[[list[Piece]], Written], *, special: bool
) -> list[Written]:
    """What is written of the tokens of each text as parts of it.

    Args:
        caller: on whose behalf.
        model: whose tokenizer counts.
        texts: which.
        write: makes something of the tokens of one text, in the same thread: there may be many.
        special: whether special tokens are among them.

    Raises:
        TokenizerFailed: the tokenizer does.
    """
    sizes = [ROW_CHARACTERS + len(text) for text in texts]

    def read(part: slice) -> list[Written]:
        return [write(model.tokenizer.pieces(text, special=special)) for text in texts[part]]

    async with in_slices(caller, sizes, read) as results:
        return [written async for fresh in results for written in fresh]


def in_slices(
    caller: Caller, sizes: Sequence[int], read: Callable[[slice], list[Result]]
) -> "aclosing[AsyncGenerator[list[Result], None]]":
    """What is read of each slice of texts, in order; closed early, it reads no more.

    Args:
        caller: on whose behalf.
        sizes: the characters of each text.
        read: reads a slice of them, here or in a thread.
    """
    calls = [partial(caller.read, sum(sizes[part]), partial(read, part)) for part in slices(sizes)]
    return aclosing(ahead(calls, caller.threads.count))


def slices(sizes: Iterable[int]) -> Iterator[slice]:
    """Which texts to tokenise together, given the characters of each."""
    start = end = total = 0
    for size in sizes:
        if end > start and total + size > SLICE_CHARACTERS:
            yield slice(start, end)
            start, total = end, 0
        end += 1
        total += size
    if end > start:
        yield slice(start, end)


def frame_query(model: TextModel, query: str, place: str, instruction: str | None = None) -> Frame:
    """What stands around every document of a model that reads it together with the query.

    Args:
        model: whose tokenizer counts.
        query: a text.
        place: what error messages call it.
        instruction: for a template that takes one.

    Raises:
        InvalidRequest: more than half of the model's tokens would stand in front of the document.
        TokenizerFailed: the tokenizer does.
    """
    limit = model.max_tokens // 2
    _check_characters(query + (instruction or ""), place, limit)
    frame = model.tokenizer.frame(query, instruction)
    _check_tokens(model, frame.head_length, place, limit, " for query and instruction" if instruction else "")
    return frame


def _check_characters(text: str, place: str, limit: int) -> None:
    most = limit * CHARACTERS_A_TOKEN
    if len(text) > most:
        raise InvalidRequest(f"{place} has {len(text)} characters; the limit is {most} for {limit} tokens", param=place)


def _check_tokens(model: TextModel, count: int, place: str, limit: int, where: str = "") -> None:
    if count > limit:
        raise InvalidRequest(
            f"{place} has {count} tokens; the limit of model {model.name!r}{where} is {limit}", param=place
        )


def _check_ids(model: TextModel, ids: list[int], place: str) -> None:
    """Refuse what another tokenizer made, which would be other words: what LangChain sends by default is cl100k's."""
    before, behind = model.tokenizer.before, model.tokenizer.behind
    if min(ids) < 0 or max(ids) >= model.vocabulary_size:
        problem = f"contains a token id outside 0..{model.vocabulary_size - 1}, the vocabulary of model {model.name!r}"
    elif ids[: len(before)] != before or ids[len(ids) - len(behind) :] != behind:
        problem = f"must start with {before} and end with {behind}, the special tokens of model {model.name!r}"
    else:
        return
    raise InvalidRequest(
        f"{place} {problem}; token ids of another model's tokenizer are not supported: send text (in LangChain's"
        " OpenAIEmbeddings, set check_embedding_ctx_length=False)",
        param=place,
    )
