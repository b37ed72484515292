"""Scores documents, or the second texts of pairs, against a query."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from gateway.catalog import TextModel
from gateway.contract import CROSS_ENCODER
from gateway.errors import InvalidRequest, RequestTooLarge
from gateway.scores import ACTIVATIONS
from gateway.service import prompts, tokens
from gateway.service.caller import Caller
from gateway.service.text_batches import infer_texts
from gateway.text.tokenizer import PairFrame, Truncate

PAIR_CHARACTERS = 256
"""Fixed cost of a pair, in characters: it needs a frame of its own."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document and its score."""

    index: int
    """Position in the documents of the call."""
    score: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """The result of one call."""

    results: list[Ranked]
    """Best first; equal scores in the order of the documents."""
    tokens: int
    """Tokens of the query and its prompt or template, counted once, and of all documents, without truncated tokens."""


@dataclass(frozen=True, slots=True)
class _Call:
    """The arguments of `rerank`."""

    caller: Caller
    model: TextModel
    query: str
    documents: Sequence[str]
    truncate: Truncate
    max_tokens: int
    """Limit per document."""
    instruction: str | None

    @property
    def places(self) -> list[str]:
        return [f"documents[{i}]" for i in range(len(self.documents))]


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
        caller: the request to work for.
        model: the text model of a rerank model.
        query: truncated only by late-interaction models that were trained so. With other models, the query and all else
            before the document may have at most half of the model's tokens.
        documents: 1 to 2,048 texts.
        truncate: what to do with documents over the limit, and with a query that the model truncates.
        max_tokens_per_document: a limit below the model's own.
        raw: whether to return a cross-encoder's logits as scores.
        instruction: replaces the instruction in the model's template or prompt.

    Raises:
        GatewayError: InvalidRequest, RequestTooLarge, TokenizerFailed, or what `batches.infer` raises.
    """
    query_tokens = tokens.estimate(query + (instruction or ""))
    caller.check(model, sum(query_tokens + tokens.estimate(document) for document in documents))
    call = _Call(
        caller,
        replace(model, activation="none") if raw else model,
        query,
        documents,
        truncate,
        max_tokens_per_document or model.max_tokens,
        instruction,
    )
    scores, count = await (_cross_encode(call) if model.role == CROSS_ENCODER else _interact_late(call))
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return Ranking([Ranked(i, scores[i]) for i in order], count)


async def _interact_late(call: _Call) -> tuple[list[float], int]:
    """Scores of documents that are encoded apart from the query, and the number of tokens."""
    caller, model = call.caller, call.model
    query = prompts.instruct(model, model.prompts.get("query", ""), call.instruction) + call.query
    prompt = model.prompts.get("document", "")
    documents = [prompt + document for document in call.documents]
    truncate_query: Truncate = "end" if model.max_query_tokens is not None and call.truncate != "none" else "none"
    query_limit = model.max_query_tokens or model.max_tokens // 2
    with caller.timings.stage("tokenize"):
        (query_ids,) = await tokens.encode(caller, model, [query], ["query"], query_limit, truncate=truncate_query)
        limit = min(model.max_tokens, call.max_tokens)
        document_ids = await tokens.encode(caller, model, documents, call.places, limit, truncate=call.truncate)
    count = sum(map(len, document_ids))
    most = count + len(query_ids) * len(documents)  # an upper bound: within a batch, the query is encoded once
    if most > tokens.MAX_TOKENS:
        raise RequestTooLarge(
            f"query has {len(query_ids)} tokens, counted with each of {len(documents)} documents: {most} tokens in"
            f" total; the limit is {tokens.MAX_TOKENS}",
            param="query",
        )
    computed = await infer_texts(caller, model, [(query_ids, ids) for ids in document_ids], {"score"})
    return computed.score[:, 0].tolist(), len(query_ids) + count


async def _cross_encode(call: _Call) -> tuple[list[float], int]:
    """Scores of documents that are encoded together with the query, and the number of tokens."""
    caller, model, query, instruction = call.caller, call.model, call.query, call.instruction
    with caller.timings.stage("tokenize"):
        make_frame = partial(_frame, model, query, "query", call.max_tokens, instruction)
        frame, limit = await caller.tokenize(len(query) + len(instruction or ""), make_frame)
        pairs = await tokens.encode(
            caller, model, call.documents, call.places, limit, truncate=call.truncate, frame=frame
        )
    scores = await _score(caller, model, pairs, [frame.first_length] * len(pairs))
    return scores, frame.head_length + sum(len(ids) - frame.head_length for ids in pairs)


async def score_pairs(
    caller: Caller, model: TextModel, pairs: Sequence[tuple[str, str]], *, truncate: Truncate, raw: bool
) -> tuple[list[float], int]:
    """Score independent pairs of texts.

    Args:
        caller: the request to work for.
        model: a cross-encoder.
        pairs: 1 to 2,048 pairs.
        truncate: what to do with second texts over the limit; first texts are never truncated.
        raw: whether to return logits as scores.

    Returns:
        The scores in the order of the pairs, and the number of tokens in total.

    Raises:
        GatewayError: InvalidRequest, RequestTooLarge, TokenizerFailed, or what `batches.infer` raises.
    """
    caller.check(model, sum(tokens.estimate(first) + tokens.estimate(second) for first, second in pairs))
    places = [f"inputs[{i}]" for i in range(len(pairs))]
    max_characters = model.max_tokens * tokens.MAX_CHARACTERS_PER_TOKEN
    sizes = [PAIR_CHARACTERS + len(first) + min(len(second), max_characters) for first, second in pairs]

    def read(part: slice) -> list[tuple[list[int], int]]:
        return [
            _encode_pair(model, pair, place, truncate=truncate)
            for pair, place in zip(pairs[part], places[part], strict=True)
        ]

    encoded: list[list[int]] = []
    first_lengths: list[int] = []
    total = 0
    with caller.timings.stage("tokenize"):
        remaining = iter(places)
        async with tokens.in_slices(caller, sizes, read) as results:
            async for fresh in results:
                rows = [ids for ids, _ in fresh]
                total = tokens.add_tokens(total, rows, remaining)
                encoded += rows
                first_lengths += [length for _, length in fresh]
    model = replace(model, activation="none") if raw else model
    return await _score(caller, model, encoded, first_lengths), total


def _encode_pair(model: TextModel, pair: tuple[str, str], place: str, *, truncate: Truncate) -> tuple[list[int], int]:
    """The token ids of a pair, and the number of ids in the first segment."""
    first, second = pair
    frame, limit = _frame(model, first, place, model.max_tokens)
    tokens.check(model, [second], [place], limit, truncate=truncate)
    (ids,) = tokens.encode_now(model, [second], [place], limit, truncate=truncate, frame=frame)
    return ids, frame.first_length


def _frame(
    model: TextModel, query: str, place: str, max_tokens: int, instruction: str | None = None
) -> tuple[PairFrame, int]:
    """The frame of all documents for a query, and the maximum number of tokens of a document."""
    if not model.tokenizer.takes_instruction:  # the instruction is in the prompt, if the model has one
        query, instruction = prompts.instruct(model, model.default_prompt, instruction) + query, None
    frame = tokens.frame_query(model, query, place, instruction)
    limit = min(model.max_tokens - frame.length, max_tokens)
    if limit < 1:
        raise InvalidRequest(
            f"{place} leaves no room for a document within the {model.max_tokens} tokens of model {model.name!r}",
            param=place,
        )
    return frame, limit


async def _score(
    caller: Caller, model: TextModel, pairs: Sequence[Sequence[int]], first_lengths: Sequence[int]
) -> list[float]:
    computed = await infer_texts(caller, model, [(ids,) for ids in pairs], {"score"}, first_lengths)
    scores: list[float] = ACTIVATIONS[model.activation](computed.score)[:, model.positive_class].tolist()
    return scores
