"""Scores pairs of a query and a document, some of which have images."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from gateway.catalog import TextModel
from gateway.contract import CROSS_ENCODER
from gateway.errors import InvalidRequest
from gateway.scores import ACTIVATIONS
from gateway.service import contents, image_rows, prompts, tokens
from gateway.service.contents import Content, pictures, text_of
from gateway.service.image_rows import Draft, Reading
from gateway.service.sides import encode_queries
from gateway.service.text_batches import infer_texts
from gateway.text.tokenizer import Truncate


@dataclass(frozen=True, slots=True)
class ContentPair:
    """A query and a document, and their fields in error messages."""

    query: str | Content
    document: str | Content
    query_place: str
    document_place: str

    @property
    def has_image(self) -> bool:
        return bool(pictures(self.query) or pictures(self.document))


@dataclass(frozen=True, slots=True)
class ContentScores:
    """The result of one call."""

    scores: list[float]
    """In the order of the pairs."""
    query_tokens: list[int]
    """Tokens of each pair's query with its prompt or template, without images."""
    document_tokens: list[int]
    """The other tokens of each pair, except those that stand for patches."""
    image_tokens: int
    """Patches of the images of all pairs."""


async def score_contents(
    reading: Reading,
    pairs: Sequence[ContentPair],
    *,
    truncate: Truncate,
    max_tokens: int | None = None,
    max_document_tokens: int | None = None,
    instruction: str | None = None,
) -> ContentScores:
    """Score each document against its query.

    Args:
        reading: how to read images.
        pairs: 1 to 2,048 pairs. Queries with images are for cross-encoders only.
        truncate: what to do with documents over the limit. Only text behind the last image of a pair is truncated.
        max_tokens: a limit below the model's own, for both together with a cross-encoder, else for a document.
        max_document_tokens: a limit for each document. Of the pairs of a cross-encoder, all have the same query then.
        instruction: replaces the instruction in the model's template or prompt.

    Raises:
        GatewayError: InvalidRequest, RequestTooLarge, TokenizerFailed, or what `batches.infer` raises.
    """
    caller, model = reading.caller, reading.model
    _check(model, pairs)
    estimates = (reading.estimate(pair.query) + reading.estimate(pair.document) for pair in pairs)
    caller.check(model, sum(estimates))
    limit = min(model.max_tokens, max_tokens or model.max_tokens)
    if model.role == CROSS_ENCODER:
        return await _cross_encode(reading, pairs, limit, max_document_tokens, truncate, instruction)
    limit = min(limit, max_document_tokens or limit)
    return await _interact_late(reading, pairs, limit, truncate, instruction)


def _check(model: TextModel, pairs: Sequence[ContentPair]) -> None:
    checked: set[int] = set()
    for pair in pairs:
        if id(pair.query) not in checked:
            checked.add(id(pair.query))
            contents.check(model, pair.query, pair.query_place)
        if pictures(pair.query) and model.role != CROSS_ENCODER:
            raise InvalidRequest(f"queries of model {model.name!r} are texts without images", param=pair.query_place)
        contents.check(model, pair.document, pair.document_place)


async def _cross_encode(
    reading: Reading,
    pairs: Sequence[ContentPair],
    limit: int,
    max_document_tokens: int | None,
    truncate: Truncate,
    instruction: str | None,
) -> ContentScores:
    caller, model = reading.caller, reading.model
    if instruction is not None and not model.tokenizer.takes_instruction:
        raise InvalidRequest(f"model {model.name!r} does not support instruction", param=prompts.FIELD)
    tokens.check_control(model, instruction or "", prompts.FIELD)
    before, between, after = model.tokenizer.around_pair(instruction)
    drafts = []
    for pair in pairs:
        query = _parts(pair.query)
        content = [*query, between, *_parts(pair.document)]
        drafts.append(Draft(pair.document_place, content, before, after, len(query) + 1))
    first: dict[int, ContentPair] = {}
    for pair in pairs:
        first.setdefault(id(pair.query), pair)
    texts = {key: before + text_of(pair.query) + between for key, pair in first.items()}
    characters = sum(map(len, texts.values()))  # many short queries must not block the event loop
    lengths: dict[int, int] = {}
    for key, pair in first.items():
        count = contents.length(pair.query) + len(instruction or "")
        tokens.check_characters(count, pair.query_place, model.max_tokens // 2)
        lengths[key] = await caller.tokenize(characters, partial(_length, model, pair, texts[key]))
        tokens.check_query(model, lengths[key], pair.query_place, instruction)
    query_tokens = [lengths[id(pair.query)] for pair in pairs]
    if max_document_tokens is not None and max_document_tokens < limit:
        if pictures(pairs[0].query):
            place = pairs[0].query_place
            raise InvalidRequest("a limit for documents is not supported for a query with images", param=place)
        limit = min(limit, query_tokens[0] + max_document_tokens + len(model.tokenizer.encode_trusted(after)))
    scores: list[float] = []
    text_tokens: list[int] = []
    patches = 0
    async with aclosing(image_rows.windows(reading, drafts, limit=limit, truncate=truncate)) as windows:
        async for rows in windows:
            ids = [(row.ids,) for row in rows]
            computed = await infer_texts(caller, model, ids, {"score"}, images=[row.images for row in rows])
            scores += ACTIVATIONS[model.activation](computed.score)[:, model.positive_class].tolist()
            text_tokens += [row.text_tokens for row in rows]
            patches += sum(row.patches for row in rows)
    document_tokens = [both - query for both, query in zip(text_tokens, query_tokens, strict=True)]
    return ContentScores(scores, query_tokens, document_tokens, patches)


def _length(model: TextModel, pair: ContentPair, text: str) -> int:
    """The number of ids of a pair's query, given its text in the template.

    Raises:
        InvalidRequest: the query contains a special token.
    """
    for run in contents.runs(pair.query):
        tokens.check_control(model, run, pair.query_place)
    return len(model.tokenizer.encode_trusted(text))


async def _interact_late(
    reading: Reading, pairs: Sequence[ContentPair], limit: int, truncate: Truncate, instruction: str | None
) -> ContentScores:
    caller, model = reading.caller, reading.model
    places: dict[str, str] = {}
    for pair in pairs:
        places.setdefault(text_of(pair.query), pair.query_place)
    with caller.timings.stage("tokenize"):
        encoded = await encode_queries(
            caller, model, [*places], [*places.values()], truncate=truncate, instruction=instruction
        )
    of_query = dict(zip(places, encoded, strict=True))
    queries = [of_query[text_of(pair.query)] for pair in pairs]
    around = partial(reading.chat.around, is_query=False, prompt=model.prompts.get("document", ""))
    drafts = [
        Draft(pair.document_place, _parts(pair.document), *around(has_images=bool(pictures(pair.document))))
        for pair in pairs
    ]
    scores: list[float] = []
    text_tokens: list[int] = []
    patches = 0
    total = sum(map(len, queries))
    async with aclosing(image_rows.windows(reading, drafts, limit=limit, truncate=truncate, total=total)) as windows:
        async for rows in windows:
            done = len(scores)
            fresh = [(query, row.ids) for query, row in zip(queries[done : done + len(rows)], rows, strict=True)]
            computed = await infer_texts(caller, model, fresh, {"score"}, images=[row.images for row in rows])
            scores += computed.score[:, 0].tolist()
            text_tokens += [row.text_tokens for row in rows]
            patches += sum(row.patches for row in rows)
    return ContentScores(scores, [*map(len, queries)], text_tokens, patches)


def _parts(content: str | Content) -> Content:
    return [content] if isinstance(content, str) else content
