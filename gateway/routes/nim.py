"""POST /v1/ranking, as NVIDIA's NeMo Retriever NIM has it and its clients call it."""

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

IMAGE = {"image": Refused("rerank models take text only")}


class Query(Struct, forbid_unknown_fields=True):
    """A text that is not empty."""

    text: Annotated[str, Meta(min_length=1)]
    refused: ClassVar[Mapping[str, Refused]] = IMAGE


class Passage(Struct, forbid_unknown_fields=True):
    """A text."""

    text: str
    refused: ClassVar[Mapping[str, Refused]] = IMAGE


class RankingRequest(Struct, forbid_unknown_fields=True):
    """What to rank by what."""

    query: Query
    passages: Annotated[list[Passage], Meta(min_length=1, max_length=MAX_ROWS)]
    model: str | None = None
    """A name or alias from /v1/models; left out, the default rerank model answers."""
    truncate: Truncation | None = None
    """Which end of a passage over the limit to leave out; with NONE, the default, it is an error."""


class PassageRank(Struct):
    """One passage's place."""

    index: int
    logit: float
    """Of a cross-encoder; of other models the score of /v1/rerank."""


class RankingUsage(Struct):
    """Tokens computed."""

    prompt_tokens: int
    total_tokens: int


class RankingResponse(Struct):
    """Passages, best first."""

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
        "Rank passages, as NIM does",
        create,
        RankingResponse,
        RankingRequest,
        {"query": {"text": QUERY}, "passages": [{"text": text} for text in DOCUMENTS]},
        tag="NIM",
    ),
)
