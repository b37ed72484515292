"""POST /v1/ranking, the API of NVIDIA's NeMo Retriever NIM."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from msgspec import Meta, Struct
from starlette.responses import Response

from gateway.routes.body import read
from gateway.routes.calls import find_ranker, rank_texts
from gateway.routes.decoding import Refused
from gateway.routes.fields import TRUNCATIONS, Truncation
from gateway.routes.http import Request, json_response
from gateway.routes.operation import Operation
from gateway.routes.rerank import DOCUMENTS, QUERY
from gateway.service.text_batches import MAX_ROWS

IMAGE = {"image": Refused("images are not supported; rerank models take text only")}


class Query(Struct, forbid_unknown_fields=True):
    """The query."""

    text: Annotated[str, Meta(min_length=1)]
    refused: ClassVar[Mapping[str, Refused]] = IMAGE


class Passage(Struct, forbid_unknown_fields=True):
    """A passage to rank."""

    text: str
    refused: ClassVar[Mapping[str, Refused]] = IMAGE


class RankingRequest(Struct, forbid_unknown_fields=True):
    """A query, and the passages to rank by their relevance to it."""

    query: Query
    passages: Annotated[list[Passage], Meta(min_length=1, max_length=MAX_ROWS)]
    model: str | None = None
    """A name or alias from /v1/models. Default: the default rerank model."""
    truncate: Truncation | None = None
    """Which end of a passage over the model's limit to cut off. With NONE, the default, such a passage is an error."""


class PassageRank(Struct):
    """A passage's score."""

    index: int
    logit: float
    """The logit of a cross-encoder; for other models, the score as on /v1/rerank."""


class RankingUsage(Struct):
    """The number of tokens processed."""

    prompt_tokens: int
    total_tokens: int


class RankingResponse(Struct):
    """The passages by descending relevance."""

    rankings: list[PassageRank]
    usage: RankingUsage


async def create(request: Request) -> Response:
    """Answer POST /v1/ranking."""
    body = await read(request, RankingRequest)
    ranking = await rank_texts(
        request,
        find_ranker(request, body.model),
        body.query.text,
        [passage.text for passage in body.passages],
        truncate=TRUNCATIONS[body.truncate or "NONE"],
        raw=True,
    )
    ranks = [PassageRank(ranked.index, ranked.score) for ranked in ranking.results]
    return json_response(RankingResponse(ranks, RankingUsage(ranking.tokens, ranking.tokens)))


OPERATIONS = (
    Operation(
        "post",
        "/v1/ranking",
        "nimRanking",
        "Rank passages (NIM)",
        create,
        RankingResponse,
        RankingRequest,
        {"query": {"text": QUERY}, "passages": [{"text": text} for text in DOCUMENTS]},
        tag="NIM",
    ),
)
