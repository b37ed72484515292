"""A query and documents to scores."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.catalog import Model
from gateway.errors import InvalidRequest
from gateway.service import rows
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
        query: never cut.
        documents: 1 to 2,048 of them.
        truncate: whether to cut documents over the limit; otherwise they are an error.
        max_tokens_per_document: a limit below the model's own.

    Raises:
        GatewayError: InvalidRequest, or what `Triton.infer` raises.
    """
    rows.check_size(len(documents), "documents")
    query_ids, *document_ids = await model.tokenizer.encode([query, *documents])
    if len(query_ids) > model.max_tokens // 2:
        raise InvalidRequest(
            f"query has {len(query_ids)} tokens; it may have {model.max_tokens // 2}, half of what model"
            f" {model.name!r} takes, and is never cut",
            param="query",
        )
    limit = min(model.max_tokens, max_tokens_per_document or model.max_tokens)
    for i, ids in enumerate(document_ids):
        if len(ids) > limit and not truncate:
            raise InvalidRequest(f"documents[{i}] has {len(ids)} tokens; the limit is {limit}", param=f"documents[{i}]")
    document_ids = [model.tokenizer.cut(ids, limit) for ids in document_ids]
    rows.check_tokens(len(query_ids) * len(documents) + sum(map(len, document_ids)), "documents")
    outputs = await rows.run(triton, model, [(query_ids, ids) for ids in document_ids])
    scores = outputs[:, 0].tolist()
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return Ranking([Ranked(i, scores[i]) for i in order], len(query_ids) + sum(map(len, document_ids)))
