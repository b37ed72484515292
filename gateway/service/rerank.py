"""A query and documents to scores."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from gateway.catalog import TextModel
from gateway.contract import CROSS_ENCODER
from gateway.errors import InvalidRequest, RequestTooLarge
from gateway.scores import ACTIVATIONS
from gateway.service import prompts, text_batches, tokens
from gateway.service.caller import Caller
from gateway.text.tokenizer import Frame, Truncate

PAIR_CHARACTERS = 256
"""A pair costs as much as if it were so much longer: a frame of its own is made for it."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """One document's place."""

    index: int
    """In the documents as they were given."""
    score: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """The answer to one call."""

    results: list[Ranked]
    """Best first; equal scores in the order of the documents."""
    tokens: int
    """Of the query and what stands around it, once, and of the documents and what stands behind them, as far as they
    were read."""


async def rerank(
    caller: Caller,
    model: TextModel,
    query: str,
    documents: Sequence[str],
    *,
    truncate: Truncate,
    max_tokens_per_document: int | None = None,
    raw: bool = False,
    instruction: str | None = None,
) -> Ranking:
    """Score every document against the query.

    Args:
        caller: on whose behalf.
        model: of a rerank model.
        query: cut only by models of late interaction that were trained on cut ones; for all others it may have half of
            the model's tokens with all that stands in front of a document, so that there is room for documents.
        documents: 1 to 2,048 of them.
        truncate: what to do with documents over the limit, and with a query that the model cuts.
        max_tokens_per_document: a limit below the model's own.
        raw: whether scores are a cross-encoder's logits.
        instruction: what to rank for, in place of what the model's template or prompt says.

    Raises:
        GatewayError: InvalidRequest, or what `parts.run` raises.
    """
    asked = tokens.estimate(query + (instruction or ""))
    caller.check(model, sum(asked + tokens.estimate(document) for document in documents))
    places = [f"documents[{i}]" for i in range(len(documents))]
    score = _cross_encode if model.role == CROSS_ENCODER else _interact_late
    model = replace(model, activation="none") if raw else model
    most = max_tokens_per_document or model.max_tokens
    scores, count = await score(
        caller, model, query, documents, places, most, truncate=truncate, instruction=instruction
    )
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return Ranking([Ranked(i, scores[i]) for i in order], count)


async def _interact_late(
    caller: Caller,
    model: TextModel,
    query: str,
    documents: Sequence[str],
    places: Sequence[str],
    most: int,
    *,
    truncate: Truncate,
    instruction: str | None,
) -> tuple[list[float], int]:
    """Scores of documents that are encoded apart from the query, and tokens."""
    prompted_query = prompts.instruct(model, model.prompts.get("query", ""), instruction) + query
    prompt = model.prompts.get("document", "")
    prompted = [prompt + document for document in documents]
    cut: Truncate = "end" if model.max_query_tokens is not None and truncate != "none" else "none"
    longest = model.max_query_tokens or model.max_tokens // 2
    with caller.timings.stage("tokenize"):
        (query_ids,) = await tokens.encode(caller, model, [prompted_query], ["query"], longest, truncate=cut)
        limit = min(model.max_tokens, most)
        document_ids = await tokens.encode(caller, model, prompted, places, limit, truncate=truncate)
    count = sum(map(len, document_ids))
    computed = count + len(query_ids) * len(documents)  # wherever their batches part, the query is encoded again
    if computed > tokens.MAX_TOKENS:
        raise RequestTooLarge(
            f"query has {len(query_ids)} tokens and is computed with each of {len(documents)} documents: {computed}"
            f" tokens in total; the limit is {tokens.MAX_TOKENS}",
            param="query",
        )
    outputs = await text_batches.run(caller, model, [(query_ids, ids) for ids in document_ids])
    return outputs[:, 0].tolist(), len(query_ids) + count


async def _cross_encode(
    caller: Caller,
    model: TextModel,
    query: str,
    documents: Sequence[str],
    places: Sequence[str],
    most: int,
    *,
    truncate: Truncate,
    instruction: str | None,
) -> tuple[list[float], int]:
    """Scores of documents that are read together with the query, and tokens."""
    with caller.timings.stage("tokenize"):
        make = partial(_frame, model, query, "query", most, instruction)
        frame, limit = await caller.read(len(query) + len(instruction or ""), make)
        pairs = await tokens.encode(caller, model, documents, places, limit, truncate=truncate, frame=frame)
    scores = await _score(caller, model, pairs, [frame.first_length] * len(pairs))
    return scores, frame.head_length + sum(len(ids) - frame.head_length for ids in pairs)


async def score_pairs(
    caller: Caller, model: TextModel, pairs: Sequence[tuple[str, str]], *, truncate: Truncate, raw: bool
) -> tuple[list[float], int]:
    """Score pairs of texts that have nothing in common.

    Args:
        caller: on whose behalf.
        model: a cross-encoder.
        pairs: 1 to 2,048 of them.
        truncate: what to do with second texts over the limit; first ones are never cut.
        raw: whether scores are logits.

    Returns:
        The scores in the order of the pairs, and the tokens of all.

    Raises:
        GatewayError: InvalidRequest, RequestTooLarge, or what `parts.run` raises.
    """
    caller.check(model, sum(tokens.estimate(first) + tokens.estimate(second) for first, second in pairs))
    places = [f"inputs[{i}]" for i in range(len(pairs))]
    most = model.max_tokens * tokens.CHARACTERS_A_TOKEN
    sizes = [PAIR_CHARACTERS + len(first) + min(len(second), most) for first, second in pairs]

    def read(part: slice) -> list[tuple[list[int], int]]:
        given = zip(pairs[part], places[part], strict=True)
        return [_encode_pair(model, pair, place, truncate=truncate) for pair, place in given]

    encoded: list[list[int]] = []
    first_lengths: list[int] = []
    total = 0
    with caller.timings.stage("tokenize"):
        left = iter(places)
        async with tokens.in_slices(caller, sizes, read) as results:
            async for fresh in results:
                rows_read = [ids for ids, _ in fresh]
                total = tokens.count(total, rows_read, left)
                encoded += rows_read
                first_lengths += [length for _, length in fresh]
    model = replace(model, activation="none") if raw else model
    return await _score(caller, model, encoded, first_lengths), total


def _encode_pair(model: TextModel, pair: tuple[str, str], place: str, *, truncate: Truncate) -> tuple[list[int], int]:
    """The row of a pair, and how many of its tokens are of the first segment."""
    first, second = pair
    frame, limit = _frame(model, first, place, model.max_tokens)
    tokens.check(model, [second], [place], limit, truncate=truncate)
    (ids,) = tokens.encode_now(model, [second], [place], limit, truncate=truncate, frame=frame)
    return ids, frame.first_length


def _frame(model: TextModel, query: str, place: str, most: int, instruction: str | None = None) -> tuple[Frame, int]:
    """What stands around documents that are read together with a query, and how many tokens these may have."""
    if not model.tokenizer.takes_instruction:  # then a prompt stands before the query, or nothing does
        query, instruction = prompts.instruct(model, model.default_prompt, instruction) + query, None
    frame = tokens.frame_query(model, query, place, instruction)
    limit = min(model.max_tokens - frame.length, most)
    if limit < 1:
        raise InvalidRequest(
            f"{place} leaves no room for a document within the {model.max_tokens} tokens of model {model.name!r}",
            param=place,
        )
    return frame, limit


async def _score(
    caller: Caller, model: TextModel, pairs: Sequence[Sequence[int]], first_lengths: Sequence[int]
) -> list[float]:
    logits = await text_batches.run(caller, model, [(ids,) for ids in pairs], first_lengths)
    scores: list[float] = ACTIVATIONS[model.activation](logits)[:, model.positive_class].tolist()
    return scores
