"""POST /v1/ranking, the API of NVIDIA's NeMo Retriever NIM."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from msgspec import Meta, Struct
from starlette.responses import Response

from gateway.errors import InvalidRequest
from gateway.routes.body import read
from gateway.routes.calls import find_ranker, rank_texts_or_contents
from gateway.routes.decoding import Refused
from gateway.routes.fields import TRUNCATIONS, Truncation
from gateway.routes.http import Request, json_response
from gateway.routes.operation import Operation
from gateway.routes.rerank import DOCUMENTS, QUERY
from gateway.service.contents import Content, Picture
from gateway.service.text_batches import MAX_ROWS


class Query(Struct, forbid_unknown_fields=True):
    """The query."""

    text: Annotated[str, Meta(min_length=1)]
    refused: ClassVar[Mapping[str, Refused]] = {"image": Refused("queries are texts; passages may have images")}


class Passage(Struct, forbid_unknown_fields=True):
    """A passage to rank: a text or, for models that take images, an image or both."""

    text: str | None = None
    image: str = ""
    """A data: URI, base64, or an http(s) URL if the server fetches images."""


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
    ranking = await rank_texts_or_contents(
        request,
        find_ranker(request, body.model),
        body.query.text,
        [_content(passage, f"passages[{i}]") for i, passage in enumerate(body.passages)],
        place="passages",
        truncate=TRUNCATIONS[body.truncate or "NONE"],
        raw=True,
    )
    ranks = [PassageRank(ranked.index, ranked.score) for ranked in ranking.results]
    tokens = ranking.tokens + ranking.image_tokens
    return json_response(RankingResponse(ranks, RankingUsage(tokens, tokens)))


def _content(passage: Passage, place: str) -> str | Content:
    """The text of a passage, or its content if it has an image."""
    if passage.image:
        text = [passage.text] if passage.text else []
        return [*text, Picture(passage.image.strip(), f"{place}.image")]
    if passage.text is None:
        raise InvalidRequest(f"{place} has neither text nor image", param=place)
    return passage.text


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
    ),
)
