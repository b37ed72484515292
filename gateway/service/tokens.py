"""Texts to token ids within a model's limits, at a cost that the limits bound too."""

from collections.abc import Iterator, Sequence

from gateway.catalog import TextTower
from gateway.errors import InvalidRequest, RequestTooLarge
from gateway.tokenize import Frame, Truncate

Text = str | list[int]
"""Text, or token ids of the model's own vocabulary, special tokens included, taken as they are."""

MAX_TOKENS = 300_000
"""In one request; a query that is read together with every document counts with each."""
CHARACTERS_A_TOKEN = 64
"""No more of a text is read than this many characters for each token that the model takes. Real text has 2 to 6."""
USUAL_CHARACTERS = 4
"""For a token, about, where nothing depends on how many there are."""
SLICE_CHARACTERS = 500_000
"""Tokenised at a time: a token takes a quarter of a kilobyte while it is, and other requests get their turn between."""


def estimate(text: Text) -> int:
    """About how many tokens a text has; at least one."""
    return len(text) if isinstance(text, list) else 1 + len(text) // USUAL_CHARACTERS


async def encode(
    tower: TextTower,
    texts: Sequence[Text],
    places: Sequence[str],
    limit: int,
    *,
    truncate: Truncate,
    frame: Frame | None = None,
) -> list[list[int]]:
    """Token ids of each text, special tokens included, at most `limit` of them, or of the row it makes in a frame.

    Args:
        tower: whose tokenizer and vocabulary count.
        texts: none of them empty, unless the model should see nothing but what is put around it.
        places: what error messages call each text, such as "input[3]".
        limit: tokens a text may have, those of the frame not counted.
        truncate: what to do with texts over the limit.
        frame: put around every text, none of which is token ids then.

    Raises:
        InvalidRequest: a text is over the limit or makes no tokens, or token ids are not the model's.
        RequestTooLarge: all are more than MAX_TOKENS.
    """
    most = limit * CHARACTERS_A_TOKEN
    for text, place in zip(texts, places, strict=True):
        if isinstance(text, list):
            _check_ids(tower, text, place)
        elif truncate == "none":
            _check_characters(text, place, limit)
    around = frame.length if frame is not None else 0
    encoded: list[list[int]] = []
    total = 0
    read = slice(-most, None) if truncate == "start" else slice(most)
    for part in _slices([text if isinstance(text, list) else text[read] for text in texts], frame):
        fresh = iter(await tower.tokenizer.encode([text for text in part if isinstance(text, str)], frame))
        for text in part:
            place = places[len(encoded)]
            ids = next(fresh) if isinstance(text, str) else text
            if not ids:
                raise InvalidRequest(f"{place} makes no tokens with model {tower.name!r}", param=place)
            if truncate == "none":
                _check_tokens(tower, len(ids) - around, place, limit, "" if frame is None else " beside this query")
            encoded.append(tower.tokenizer.cut(ids, around + limit, frame, truncate))
            total += len(encoded[-1])
            if total > MAX_TOKENS:
                raise RequestTooLarge(
                    f"up to {place}, the request has {total} tokens; it may have {MAX_TOKENS}", param=place
                )
    return encoded


async def frame_query(tower: TextTower, query: str, place: str, instruction: str | None = None) -> Frame:
    """What stands around every document of a model that reads it together with the query.

    Args:
        tower: whose tokenizer counts.
        query: a text.
        place: what error messages call it.
        instruction: for a template that takes one.

    Raises:
        InvalidRequest: more than half of the model's tokens would stand in front of the document.
    """
    limit = tower.max_tokens // 2
    _check_characters(query + (instruction or ""), place, limit)
    frame = await tower.tokenizer.frame(query, instruction)
    _check_tokens(tower, frame.head_length, place, limit, " for query and instruction" if instruction else "")
    return frame


def _slices(texts: Sequence[Text], frame: Frame | None) -> Iterator[list[Text]]:
    beside = len(frame.before) + len(frame.text) + len(frame.tail) if frame is not None else 0
    part: list[Text] = []
    size = 0
    for text in texts:
        if part and size + beside + len(text) > SLICE_CHARACTERS:
            yield part
            part, size = [], 0
        part.append(text)
        size += beside + len(text)
    if part:
        yield part


def _check_characters(text: str, place: str, limit: int) -> None:
    most = limit * CHARACTERS_A_TOKEN
    if len(text) > most:
        raise InvalidRequest(
            f"{place} has {len(text)} characters; for {limit} tokens, which it may have, {most} are read", param=place
        )


def _check_tokens(tower: TextTower, count: int, place: str, limit: int, where: str = "") -> None:
    if count > limit:
        raise InvalidRequest(
            f"{place} has {count} tokens; the limit of model {tower.name!r}{where} is {limit}", param=place
        )


def _check_ids(tower: TextTower, ids: list[int], place: str) -> None:
    """Refuse what another tokenizer made, which would be other words: what LangChain sends by default is cl100k's."""
    before, behind = tower.tokenizer.before, tower.tokenizer.behind
    if min(ids) < 0 or max(ids) >= tower.vocabulary_size:
        problem = f"holds a token id outside 0..{tower.vocabulary_size - 1}, the vocabulary of model {tower.name!r}"
    elif ids[: len(before)] != before or ids[len(ids) - len(behind) :] != behind:
        problem = f"does not begin with {before} and end with {behind}, as token ids of model {tower.name!r} do"
    else:
        return
    raise InvalidRequest(
        f"{place} {problem}; token ids of another model's tokenizer do not work here, send text instead (LangChain's"
        " OpenAIEmbeddings does with check_embedding_ctx_length=False)",
        param=place,
    )
