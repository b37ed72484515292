"""Turns texts into token ids within the limits of a model. The limits also bound the cost of tokenizing."""

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import TypeVar

from gateway.catalog import TextModel
from gateway.errors import InvalidRequest, RequestTooLarge
from gateway.service.caller import Caller
from gateway.service.gather import prefetch
from gateway.text.tokenizer import PairFrame, TokenSpan, Truncate

Written = TypeVar("Written")
Result = TypeVar("Result")
Text = str | list[int]
"""A text, or token ids of the model's vocabulary including special tokens."""

MAX_TOKENS = 300_000
"""Maximum number of tokens in one request. A query that is encoded with each document counts each time."""
MAX_CHARACTERS_PER_TOKEN = 64
"""Characters of a text that are read for each token allowed. Real text has 2 to 6 per token."""
TYPICAL_CHARACTERS_PER_TOKEN = 4
"""For estimates of the number of tokens."""
SLICE_CHARACTERS = 32_768
"""Characters tokenized in one turn, unless a single text has more: 8 ms of work, or 130 ms for an adversarial text."""
ROW_CHARACTERS = 16
"""Fixed cost of a text, in characters."""


def estimate(text: Text | int) -> int:
    """Estimate the number of tokens of a text, or of one with so many characters, at least 1."""
    if isinstance(text, list):
        return len(text)
    return 1 + (text if isinstance(text, int) else len(text)) // TYPICAL_CHARACTERS_PER_TOKEN


async def encode(
    caller: Caller,
    model: TextModel,
    texts: Sequence[Text],
    places: Sequence[str],
    limit: int,
    *,
    truncate: Truncate,
    frame: PairFrame | None = None,
) -> list[list[int]]:
    """Token ids of each text with special tokens, or of its row in a frame.

    Args:
        caller: the request to work for.
        model: the model whose tokenizer is used.
        texts: texts, or token ids of whole rows, in which a frame is already.
        places: the field of each text in error messages, such as "input[3]".
        limit: maximum number of tokens of a text, without those of the frame.
        truncate: what to do with texts over the limit.
        frame: the query-document frame to put each text into.

    Raises:
        InvalidRequest: a text is over the limit or produces no tokens, or token ids are not the model's.
        RequestTooLarge: the texts have more than MAX_TOKENS in total.
        TokenizerFailed: the tokenizer raised an error.
    """
    check(model, texts, places, limit, truncate=truncate, frame=frame)
    frame_size = len(frame.before) + len(frame.text) + len(frame.tail) if frame is not None else 0
    max_characters = limit * MAX_CHARACTERS_PER_TOKEN
    sizes = [ROW_CHARACTERS + frame_size + min(len(text), max_characters) for text in texts]

    def read(part: slice) -> list[list[int]]:
        return encode_now(model, texts[part], places[part], limit, truncate=truncate, frame=frame)

    if sum(sizes) <= SLICE_CHARACTERS:  # as most requests: without what several slices need
        encoded = await caller.tokenize(sum(sizes), partial(read, slice(len(texts))))
        add_tokens(0, encoded, places)
        return encoded
    encoded = []
    total = 0
    remaining = iter(places)
    async with in_slices(caller, sizes, read) as rows:
        async for fresh in rows:
            total = add_tokens(total, fresh, remaining)
            encoded += fresh
    return encoded


def check(
    model: TextModel,
    texts: Sequence[Text],
    places: Sequence[str],
    limit: int,
    *,
    truncate: Truncate,
    frame: PairFrame | None = None,
) -> None:
    """Raise InvalidRequest for what is wrong without tokenizing."""
    frame_length = frame.length if frame is not None else 0
    around: tuple[list[int], list[int]] | None = None  # of rows of ids, which few calls have
    for text, place in zip(texts, places, strict=True):
        if isinstance(text, list):
            around = around or _around(model)
            if truncate == "none":  # first, so that not every id of a huge list is checked
                _check_tokens(model, len(text), place, frame_length + limit)
            _check_ids(model, text, place, around)
            continue
        if truncate == "none":
            check_characters(len(text), place, limit)


def check_control(model: TextModel, text: str, place: str) -> None:
    """Raise InvalidRequest if a text contains a special token, which would change the model's chat template.

    Searching millions of characters takes long, so do it where they are tokenized.
    """
    if model.chat is not None and (token := model.tokenizer.control_token(text)) is not None:
        raise InvalidRequest(
            f"{place} contains {token!r}, a special token of model {model.name!r}; it would change the template of the"
            " model",
            param=place,
        )


def encode_now(
    model: TextModel,
    texts: Sequence[Text],
    places: Sequence[str],
    limit: int,
    *,
    truncate: Truncate,
    frame: PairFrame | None = None,
) -> list[list[int]]:
    """`encode` in the current thread, for texts that `check` has accepted."""
    max_characters = limit * MAX_CHARACTERS_PER_TOKEN
    part = slice(-max_characters, None) if truncate == "start" else slice(max_characters)
    frame_length = frame.length if frame is not None else 0
    read = [text[part] if isinstance(text, str) else text for text in texts]
    for text, place in zip(read, places, strict=True):
        if isinstance(text, str):
            check_control(model, text, place)
    fresh = iter(model.tokenizer.encode([text for text in read if isinstance(text, str)], frame))
    encoded: list[list[int]] = []
    for text, place in zip(texts, places, strict=True):
        ids = next(fresh) if isinstance(text, str) else text
        if not ids:
            raise InvalidRequest(f"{place} produces no tokens with model {model.name!r}", param=place)
        if truncate == "none":
            _check_tokens(model, len(ids) - frame_length, place, limit, "" if frame is None else frame.where)
        encoded.append(model.tokenizer.truncate(ids, frame_length + limit, frame, truncate))
    return encoded


def encode_pairs(
    model: TextModel, pairs: Sequence[tuple[str, str]], places: Sequence[str], *, truncate: Truncate
) -> list[tuple[list[int], int]]:
    """The row of each pair of texts, and how many of its ids are in the first segment.

    For texts that `check` has accepted. Raises the errors of `encode`, for the limit of the model.
    """
    max_characters = model.max_tokens * MAX_CHARACTERS_PER_TOKEN
    part = slice(-max_characters, None) if truncate == "start" else slice(max_characters)
    rows = model.tokenizer.encode_pairs([(a[part], b[part]) for a, b in pairs], model.max_tokens, truncate)
    for (ids, _), place in zip(rows, places, strict=True):
        _check_tokens(model, len(ids), place, model.max_tokens)
    return rows


def add_tokens(total: int, rows: Iterable[Sequence[int]], places: Iterable[str]) -> int:
    """Add the tokens of rows to the total of a request. Consumes the place of each row.

    Raises:
        RequestTooLarge: the total is over MAX_TOKENS.
    """
    for ids, place in zip(rows, places, strict=False):
        total += len(ids)
        if total > MAX_TOKENS:
            raise RequestTooLarge(
                f"the request has {total} tokens up to {place}; the limit is {MAX_TOKENS}", param=place
            )
    return total


async def token_spans(
    caller: Caller,
    model: TextModel,
    texts: Sequence[str],
    write: Callable[[list[TokenSpan]], Written],
    *,
    special: bool,
) -> list[Written]:
    """Tokenize texts and write the tokens of each.

    Args:
        caller: the request to work for.
        model: the model whose tokenizer is used.
        texts: texts of any length.
        write: writes the tokens of one text; called in the tokenizing thread, since there may be many.
        special: whether to include special tokens.

    Raises:
        TokenizerFailed: the tokenizer raised an error.
    """
    sizes = [ROW_CHARACTERS + len(text) for text in texts]

    def read(part: slice) -> list[Written]:
        return [write(model.tokenizer.token_spans(text, special=special)) for text in texts[part]]

    async with in_slices(caller, sizes, read) as results:
        return [written async for fresh in results for written in fresh]


async def texts_of(caller: Caller, model: TextModel, rows: Sequence[Sequence[int]], *, skip_special: bool) -> list[str]:
    """The text of each row of token ids.

    Args:
        caller: the request to work for.
        model: the model whose tokenizer is used.
        rows: ids; those outside the vocabulary are left out.
        skip_special: whether to leave out special tokens.

    Raises:
        TokenizerFailed: the tokenizer raised an error.
    """

    def read(part: slice) -> list[str]:
        return model.tokenizer.decode(rows[part], skip_special=skip_special)

    async with in_slices(caller, [ROW_CHARACTERS + len(row) for row in rows], read) as results:
        return [text async for fresh in results for text in fresh]


def in_slices(
    caller: Caller, sizes: Sequence[int], read: Callable[[slice], list[Result]]
) -> "aclosing[AsyncGenerator[list[Result], None]]":
    """Tokenize texts in slices and yield the results in order. Closing the iterator stops the work.

    Args:
        caller: the request to work for.
        sizes: number of characters of each text.
        read: tokenizes a slice of the texts; may run in a thread.
    """
    calls = [partial(caller.tokenize, sum(sizes[part]), partial(read, part)) for part in slices(sizes)]
    return aclosing(prefetch(calls, caller.threads.count))


def slices(sizes: Iterable[int]) -> Iterator[slice]:
    """Group texts into slices of about SLICE_CHARACTERS, given the characters of each."""
    start = end = total = 0
    for size in sizes:
        if end > start and total + size > SLICE_CHARACTERS:
            yield slice(start, end)
            start, total = end, 0
        end += 1
        total += size
    if end > start:
        yield slice(start, end)


def frame_query(model: TextModel, query: str, place: str, instruction: str | None = None) -> PairFrame:
    """The frame of all documents for a query.

    Args:
        model: a cross-encoder.
        query: the text of the query.
        place: the field of the query in error messages.
        instruction: for templates that support one.

    Raises:
        InvalidRequest: more than half of the model's tokens would come before the document.
        TokenizerFailed: the tokenizer raised an error.
    """
    limit = model.max_tokens // 2
    check_characters(len(query) + len(instruction or ""), place, limit)
    check_control(model, query, place)
    frame = model.tokenizer.frame(query, instruction)
    check_query(model, frame.head_length, place, instruction)
    return frame


def check_query(model: TextModel, count: int, place: str, instruction: str | None = None) -> None:
    """Raise InvalidRequest if so many tokens before the document are more than half of the model's."""
    _check_tokens(model, count, place, model.max_tokens // 2, " for query and instruction" if instruction else "")


async def template_frame(caller: Caller, model: TextModel, prompt: str, *, is_query: bool) -> PairFrame:
    """The template of texts without images, with this instruction or prompt. The model must have one."""
    if model.chat is None:
        raise ValueError(f"{model.name} has no chat template")
    around = model.chat.around(is_query=is_query, prompt=prompt, has_images=False)
    return await caller.tokenize(sum(map(len, around)), partial(model.tokenizer.frame_around, *around))


def room(model: TextModel, frame: PairFrame, limit: int, place: str) -> int:
    """How many tokens of a row of `limit` are left for a text in a template.

    Raises:
        InvalidRequest: none.
    """
    left = limit - frame.length
    if left < 1:
        raise InvalidRequest(
            f"the template and the instruction of model {model.name!r} have {frame.length} tokens and leave no room for"
            f" a text within {limit}",
            param=place,
        )
    return left


def check_characters(count: int, place: str, limit: int) -> None:
    """Raise InvalidRequest if a text of so many characters is longer than what is read of it for a limit in tokens."""
    max_characters = limit * MAX_CHARACTERS_PER_TOKEN
    if count > max_characters:
        raise InvalidRequest(
            f"{place} has {count} characters; the limit is {max_characters} for {limit} tokens", param=place
        )


def _check_tokens(model: TextModel, count: int, place: str, limit: int, where: str = "") -> None:
    if count > limit:
        raise InvalidRequest(
            f"{place} has {count} tokens; the limit of model {model.name!r}{where} is {limit}", param=place
        )


def limit_of(model: TextModel, limit: int) -> str:
    """A limit for tokens as a clause: the model's, or one below it."""
    if limit == model.max_tokens:
        return f"the limit of model {model.name!r} is {limit}"
    return f"the limit of the request is {limit}, that of model {model.name!r} {model.max_tokens}"


def _around(model: TextModel) -> tuple[list[int], list[int]]:
    """The ids that a row begins and ends with: its special tokens, or the ends of its chat template."""
    if model.chat is None:
        return model.tokenizer.before, model.tokenizer.behind
    before, after = model.chat.ends
    return model.tokenizer.encode_trusted(before)[:1], model.tokenizer.encode_trusted(after)[-1:]


def _check_ids(model: TextModel, ids: list[int], place: str, around: tuple[list[int], list[int]]) -> None:
    """Raise InvalidRequest for token ids of another tokenizer; LangChain sends cl100k's by default."""
    before, behind = around
    if model.images is not None and model.images.token in ids:
        raise InvalidRequest(
            f"{place} contains the token id {model.images.token}, which stands for images", param=place
        )
    if min(ids) < 0 or max(ids) >= model.vocabulary_size:
        problem = f"contains a token id outside 0..{model.vocabulary_size - 1}, the vocabulary of model {model.name!r}"
    elif ids[: len(before)] != before or ids[len(ids) - len(behind) :] != behind:
        problem = f"must start with {before} and end with {behind}, as texts of model {model.name!r} do"
    else:
        return
    raise InvalidRequest(
        f"{place} {problem}; token ids of another model's tokenizer are not supported: send text (in LangChain's"
        " OpenAIEmbeddings, set check_embedding_ctx_length=False)",
        param=place,
    )
