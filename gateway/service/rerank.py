"""A query and documents to scores."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.catalog import Model
from gateway.service import rows, tokens
from gateway.triton import Triton


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
    """Of the query, once, and of the documents as far as they were read; special tokens included."""


async def rerank(
    triton: Triton,
    model: Model,
    query: str,
    documents: Sequence[str],
    *,
    truncate: bool,
    max_tokens_per_document: int | None = None,
) -> Ranking:
    """Score every document against the query.

    Args:
        triton: where the model runs.
        model: a rerank model.
        query: never cut; it may have half of the model's tokens, so that every kind of model has room for documents.
        documents: 1 to 2,048 of them.
        truncate: whether to cut documents over the limit; otherwise they are an error.
        max_tokens_per_document: a limit below the model's own.

    Raises:
        GatewayError: InvalidRequest, or what `Triton.infer` raises.
    """
    (query_ids,) = await tokens.encode(model, [query], ["query"], model.max_tokens // 2, truncate=False)
    limit = min(model.max_tokens, max_tokens_per_document or model.max_tokens)
    places = [f"documents[{i}]" for i in range(len(documents))]
    document_ids = await tokens.encode(model, documents, places, limit, truncate=truncate)
    outputs = await rows.run(triton, model, [(query_ids, ids) for ids in document_ids])
    scores = outputs[:, 0].tolist()
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return Ranking([Ranked(i, scores[i]) for i in order], len(query_ids) + sum(map(len, document_ids)))
