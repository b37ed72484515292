"""Scores documents, or the second texts of pairs, against a query."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from gateway.catalog import TextModel
from gateway.contract import CROSS_ENCODER
from gateway.errors import RequestTooLarge
from gateway.scores import ACTIVATIONS
from gateway.service import prompts, tokens
from gateway.service.caller import Caller
from gateway.service.classify import frame_query
from gateway.service.text_batches import infer_texts
from gateway.text.tokenizer import Truncate


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
    prompt = model.prompts.get("document", "")
    documents = [prompt + document for document in call.documents]
    with caller.timings.stage("tokenize"):
        (query_ids,) = await encode_queries(
            caller, model, [call.query], ["query"], truncate=call.truncate, instruction=call.instruction
        )
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


async def encode_queries(
    caller: Caller,
    model: TextModel,
    queries: Sequence[str],
    places: Sequence[str],
    *,
    truncate: Truncate,
    instruction: str | None = None,
) -> list[list[int]]:
    """Token ids of queries, with their prompt, for a late-interaction model. Raises the errors of `tokens.encode`."""
    prompt = prompts.instruct(model, model.prompts.get("query", ""), instruction)
    is_truncated = model.max_query_tokens is not None and truncate != "none"
    return await tokens.encode(
        caller,
        model,
        [prompt + query for query in queries],
        places,
        model.max_query_tokens or model.max_tokens // 2,
        truncate="end" if is_truncated else "none",
    )


async def _cross_encode(call: _Call) -> tuple[list[float], int]:
    """Scores of documents that are encoded together with the query, and the number of tokens."""
    caller, model, query, instruction = call.caller, call.model, call.query, call.instruction
    with caller.timings.stage("tokenize"):
        make_frame = partial(frame_query, model, query, "query", call.max_tokens, instruction)
        frame, limit = await caller.tokenize(len(query) + len(instruction or ""), make_frame)
        pairs = await tokens.encode(
            caller, model, call.documents, call.places, limit, truncate=call.truncate, frame=frame
        )
    scores = await _score(caller, model, pairs, [frame.first_length] * len(pairs))
    return scores, frame.head_length + sum(len(ids) - frame.head_length for ids in pairs)


async def _score(
    caller: Caller, model: TextModel, pairs: Sequence[Sequence[int]], first_lengths: Sequence[int]
) -> list[float]:
    computed = await infer_texts(caller, model, [(ids,) for ids in pairs], {"score"}, first_lengths)
    scores: list[float] = ACTIVATIONS[model.activation](computed.score)[:, model.positive_class].tolist()
    return scores
