"""POST /v1/reranking: mixedbread's API and, for requests with documents, that of llama.cpp, which is /v1/rerank's."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from gateway.routes.body import read_one_of
from gateway.routes.calls import find_ranker, rank_texts
from gateway.routes.decoding import Refused
from gateway.routes.http import Request, large_json_response
from gateway.routes.operation import Operation
from gateway.routes.rerank import DOCUMENTS, QUERY, TEXT, RankFields, RerankRequest, document_text, rank
from gateway.service.text_batches import MAX_ROWS


class MixedbreadRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """A query, and the texts to rank by their relevance to it."""

    query: Annotated[str, Meta(min_length=1)]
    """Never truncated. It may take up to half of the model's limit."""
    input: Annotated[list[str | dict[str, Any]], Meta(min_length=1, max_length=MAX_ROWS)]
    """Texts, or objects with the fields to rank on. Texts over the model's limit are truncated at the end."""
    rank_fields: RankFields | None = None
    """The fields of objects to rank on, joined by line breaks in this order. Default: `text`."""
    top_k: Annotated[int, Meta(ge=0)] | None = None
    """How many results to return, best first. Default, and for 0: all."""
    return_input: bool | None = None
    """Whether results include what was ranked. Default: false."""
    model: str | None = None
    """A name or alias from /v1/models. Default: the default rerank model."""
    refused: ClassVar[Mapping[str, Refused]] = {"rewrite_query": Refused("queries are ranked as they are")}


class MixedbreadRank(Struct, omit_defaults=True):
    """The score of a text."""

    index: int
    score: float
    object: Literal["rank_result"]
    input: str | dict[str, Any] | UnsetType = UNSET
    """As it was sent. Present if the request has return_input."""


class MixedbreadUsage(Struct):
    """Tokens in the query (counted once) and the texts, after truncation, including special tokens."""

    prompt_tokens: int
    total_tokens: int


class MixedbreadResponse(Struct):
    """The results by descending relevance."""

    object: Literal["list"]
    model: str
    data: list[MixedbreadRank]
    top_k: int
    """The number of results."""
    return_input: bool
    usage: MixedbreadUsage


async def create(request: Request) -> Response:
    """Answer POST /v1/reranking."""
    body = await _read(request)
    if isinstance(body, RerankRequest):
        return await rank(request, body)
    model = find_ranker(request, body.model)
    fields = list(dict.fromkeys(body.rank_fields or (TEXT,)))
    texts = [
        item if isinstance(item, str) else document_text(item, f"input[{i}]", fields)
        for i, item in enumerate(body.input)
    ]
    ranking = await rank_texts(request, model, body.query, texts, place="input", truncate="end")
    ranks = [
        MixedbreadRank(
            ranked.index, ranked.score, "rank_result", body.input[ranked.index] if body.return_input else UNSET
        )
        for ranked in ranking.results[: body.top_k or None]
    ]
    usage = MixedbreadUsage(ranking.tokens, ranking.tokens)
    response = MixedbreadResponse("list", model.name, ranks, len(ranks), body.return_input is True, usage)
    return await large_json_response(request, lambda: response)


async def _read(request: Request) -> MixedbreadRequest | RerankRequest:
    def choose(body: object) -> type[MixedbreadRequest] | type[RerankRequest]:
        return RerankRequest if isinstance(body, dict) and "documents" in body else MixedbreadRequest

    return await read_one_of(request, choose)


OPERATIONS = (
    Operation(
        "post",
        "/v1/reranking",
        "mixedbreadRerank",
        "Rank texts (mixedbread), or documents as on /v1/rerank",
        create,
        MixedbreadResponse,
        MixedbreadRequest,
        {"query": QUERY, "input": DOCUMENTS},
    ),
)
