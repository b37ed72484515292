"""Scores pairs of texts."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.catalog import TextModel
from gateway.contract import CROSS_ENCODER
from gateway.service import tokens
from gateway.service.caller import Caller
from gateway.service.classify import Input, classify
from gateway.service.sides import encode_documents, encode_queries
from gateway.service.text_batches import infer_texts
from gateway.text.tokenizer import Truncate


@dataclass(frozen=True, slots=True)
class TextPair:
    """Two texts, and their fields in error messages."""

    query: str
    document: str
    query_place: str
    document_place: str


@dataclass(frozen=True, slots=True)
class PairScores:
    """The result of one call."""

    scores: list[float]
    """In the order of the pairs."""
    tokens: int
    """Tokens of all pairs; a query counts with each of its documents."""


async def score_pairs(
    caller: Caller,
    model: TextModel,
    pairs: Sequence[TextPair],
    *,
    truncate: Truncate,
    max_tokens: int | None = None,
    raw: bool = False,
) -> PairScores:
    """Score each document against its query, as `rerank` does.

    Args:
        caller: the request to work for.
        model: the text model of a rerank model.
        pairs: 1 to 2,048 pairs.
        truncate: what to do with documents over the limit, and with queries that the model truncates.
        max_tokens: a limit below the model's own: for both texts together with a cross-encoder, else for a document.
        raw: whether to return a cross-encoder's logits as scores.

    Raises:
        GatewayError: InvalidRequest, RequestTooLarge, TokenizerFailed, or what `batches.infer` raises.
    """
    if model.role == CROSS_ENCODER:
        inputs = [Input(pair.document_place, (pair.query, pair.document), pair.query_place) for pair in pairs]
        found = await classify(caller, model, inputs, truncate=truncate, max_tokens=max_tokens, raw=raw)
        return PairScores(found.scores[:, model.positive_class].tolist(), found.tokens)
    estimates = (tokens.estimate(pair.query) + tokens.estimate(pair.document) for pair in pairs)
    caller.check(model, sum(estimates))
    places: dict[str, str] = {}
    for pair in pairs:
        places.setdefault(pair.query, pair.query_place)
    with caller.timings.stage("tokenize"):
        encoded = await encode_queries(caller, model, [*places], [*places.values()], truncate=truncate)
        queries = dict(zip(places, encoded, strict=True))
        documents = await encode_documents(
            caller,
            model,
            [pair.document for pair in pairs],
            [pair.document_place for pair in pairs],
            min(model.max_tokens, max_tokens or model.max_tokens),
            truncate=truncate,
        )
    rows = [(queries[pair.query], document) for pair, document in zip(pairs, documents, strict=True)]
    count = tokens.add_tokens(
        0, ([*query, *document] for query, document in rows), (pair.document_place for pair in pairs)
    )
    computed = await infer_texts(caller, model, rows, {"score"})
    return PairScores(computed.score[:, 0].tolist(), count)
