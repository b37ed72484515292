"""A query and documents to scores."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.catalog import TextTower
from gateway.errors import InvalidRequest, RequestTooLarge
from gateway.scores import ACTIVATIONS
from gateway.service import rows, tokens
from gateway.service.caller import Caller
from gateway.tokenize import Truncate


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
    tower: TextTower,
    query: str,
    documents: Sequence[str],
    *,
    truncate: Truncate,
    max_tokens_per_document: int | None = None,
    raw: bool = False,
) -> Ranking:
    """Score every document against the query.

    Args:
        caller: on whose behalf.
        tower: of a rerank model.
        query: never cut; with all that stands in front of a document it may have half of the model's tokens, so that
            every kind of model has room for documents.
        documents: 1 to 2,048 of them.
        truncate: what to do with documents over the limit.
        max_tokens_per_document: a limit below the model's own.
        raw: whether scores are a cross-encoder's logits.

    Raises:
        GatewayError: InvalidRequest, or what `parts.run` raises.
    """
    caller.check(tower, sum(tokens.estimate(query) + tokens.estimate(document) for document in documents))
    places = [f"documents[{i}]" for i in range(len(documents))]
    score = _cross_encode if tower.role == "cross-encoder" else _interact_late
    tower = replace(tower, activation="none") if raw else tower
    most = max_tokens_per_document or tower.max_tokens
    scores, count = await score(caller, tower, query, documents, places, most, truncate=truncate)
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return Ranking([Ranked(i, scores[i]) for i in order], count)


async def _interact_late(
    caller: Caller,
    tower: TextTower,
    query: str,
    documents: Sequence[str],
    places: Sequence[str],
    most: int,
    *,
    truncate: Truncate,
) -> tuple[list[float], int]:
    """Scores of documents that are encoded apart from the query, and tokens."""
    prompted_query = tower.prompts.get("query", "") + query
    prompt = tower.prompts.get("document", "")
    prompted = [prompt + document for document in documents]
    with caller.stages.stage("tokenise"):
        (query_ids,) = await tokens.encode(tower, [prompted_query], ["query"], tower.max_tokens // 2, truncate="none")
        document_ids = await tokens.encode(tower, prompted, places, min(tower.max_tokens, most), truncate=truncate)
    count = sum(map(len, document_ids))
    computed = count + len(query_ids) * len(documents)  # wherever their batches part, the query is encoded again
    if computed > tokens.MAX_TOKENS:
        raise RequestTooLarge(
            f"query has {len(query_ids)} tokens; with each of {len(documents)} documents that makes {computed} tokens,"
            f" and a request may have {tokens.MAX_TOKENS}",
            param="query",
        )
    outputs = await rows.run(caller, tower, [(query_ids, ids) for ids in document_ids])
    return outputs[:, 0].tolist(), len(query_ids) + count


async def _cross_encode(
    caller: Caller,
    tower: TextTower,
    query: str,
    documents: Sequence[str],
    places: Sequence[str],
    most: int,
    *,
    truncate: Truncate,
) -> tuple[list[float], int]:
    """Scores of documents that are read together with the query, and tokens."""
    with caller.stages.stage("tokenise"):
        frame = await tokens.frame_query(tower, query)
        limit = min(tower.max_tokens - frame.length, most)
        if limit < 1:
            raise InvalidRequest(
                f"query leaves no room for a document: the limit of model {tower.name!r} is {tower.max_tokens} tokens",
                param="query",
            )
        pairs = await tokens.encode(tower, documents, places, limit, truncate=truncate, frame=frame)
    logits = await rows.run(caller, tower, [(ids,) for ids in pairs], frame.first_length)
    scores: list[float] = ACTIVATIONS[tower.activation](logits)[:, tower.positive_class].tolist()
    return scores, frame.head_length + sum(len(ids) - frame.head_length for ids in pairs)
