"""Texts to token ids within a model's limits, at a cost that the limits bound too."""

from collections.abc import Iterator, Sequence

from gateway.catalog import Model
from gateway.errors import InvalidRequest

Text = str | list[int]
"""Text, or token ids of the model's own vocabulary, special tokens included, taken as they are."""

MAX_TOKENS = 300_000
"""In one request."""
CHARACTERS_A_TOKEN = 64
"""No more of a text is read than this many characters for each token that the model takes. Real text has 2 to 6."""
SLICE_CHARACTERS = 500_000
"""Tokenised at a time: a token takes a quarter of a kilobyte while it is, and other requests get their turn between."""


async def encode(
    model: Model, texts: Sequence[Text], places: Sequence[str], limit: int, *, truncate: bool
) -> list[list[int]]:
    """Token ids of each text, special tokens included, at most `limit` of them.

    Args:
        model: whose tokenizer and vocabulary count.
        texts: none of them empty, unless the model should see nothing but special tokens.
        places: what error messages call each text, such as "input[3]".
        limit: tokens a text may have.
        truncate: whether to cut texts over the limit; otherwise they are an error.

    Raises:
        InvalidRequest: a text is over the limit, token ids are not the model's, or all are more than MAX_TOKENS.
    """
    most = limit * CHARACTERS_A_TOKEN
    for text, place in zip(texts, places, strict=True):
        if isinstance(text, list):
            _check_vocabulary(model, text, place)
        elif len(text) > most and not truncate:
            raise InvalidRequest(
                f"{place} has {len(text)} characters; for {limit} tokens, which it may have, {most} are read",
                param=place,
            )
    encoded: list[list[int]] = []
    total = 0
    for part in _slices([text if isinstance(text, list) else text[:most] for text in texts]):
        fresh = iter(await model.tokenizer.encode([text for text in part if isinstance(text, str)]))
        for text in part:
            place = places[len(encoded)]
            ids = next(fresh) if isinstance(text, str) else text
            if len(ids) > limit and not truncate:
                raise InvalidRequest(
                    f"{place} has {len(ids)} tokens; the limit of model {model.name!r} is {limit}", param=place
                )
            encoded.append(model.tokenizer.cut(ids, limit))
            total += len(encoded[-1])
            if total > MAX_TOKENS:
                raise InvalidRequest(
                    f"up to {place}, the request has {total} tokens; it may have {MAX_TOKENS}", param=place
                )
    return encoded


def _slices(texts: Sequence[Text]) -> Iterator[list[Text]]:
    part: list[Text] = []
    size = 0
    for text in texts:
        if part and size + len(text) > SLICE_CHARACTERS:
            yield part
            part, size = [], 0
        part.append(text)
        size += len(text)
    if part:
        yield part


def _check_vocabulary(model: Model, ids: Sequence[int], place: str) -> None:
    if min(ids) < 0 or max(ids) >= model.vocabulary_size:
        raise InvalidRequest(
            f"{place} holds a token id outside 0..{model.vocabulary_size - 1}, the vocabulary of model {model.name!r};"
            " token ids of another model's tokenizer do not work here, send text instead",
            param=place,
        )
