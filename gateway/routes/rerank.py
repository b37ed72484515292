"""POST /v1/rerank, for clients of Jina, Cohere, Voyage, Infinity and vLLM."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from gateway.catalog import TextModel
from gateway.contract import CROSS_ENCODER
from gateway.errors import InvalidRequest
from gateway.routes.body import read, record_ignored, resolve_aliases
from gateway.routes.calls import find_ranker, rank_texts
from gateway.routes.decoding import MAX_IGNORED, Refused
from gateway.routes.fields import Instruction, PromptTokens, Side, resolve_truncation
from gateway.routes.http import Request, large_json_response
from gateway.routes.operation import Operation
from gateway.service.rerank import Ranking
from gateway.service.text_batches import MAX_ROWS

QUERY, DOCUMENTS = "Who plays a shell?", ["A conch can be blown like a trumpet.", "Brass is an alloy."]
"""The example of the operations that rank."""
ALIASES = {"top_k": "top_n", "truncation": "truncate", "instruct": "instruction"}

Document = dict[str, Any]
"""A document as an object with a text and other fields."""
TEXT = "text"
RankFields = Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1, max_length=64)]
"""The fields of a document that form its text, in this order. A repeated field counts once."""


class RerankInput(Struct, forbid_unknown_fields=True, kw_only=True):
    """The fields that /v1/rerank and /v2/rerank share."""

    query: Annotated[str, Meta(min_length=1)]
    """Never truncated. It may take up to half of the model's limit."""
    documents: Annotated[list[str | Document], Meta(min_length=1, max_length=MAX_ROWS)]
    """Texts, or objects with a text."""
    rank_fields: RankFields | None = None
    """The fields of documents to rank on, joined by line breaks in this order. Default: `text`."""
    raw_scores: bool | None = None
    """Whether scores are a cross-encoder's logits, as in the APIs of Infinity and TEI."""
    max_tokens_per_doc: Annotated[int, Meta(ge=8)] | None = None
    """A limit for each document, lower than the model's."""
    truncate_prompt_tokens: PromptTokens | None = None
    """A limit lower than the model's, as in vLLM's API: for a document, or for query and document together if the model
    is a cross-encoder. -1 for the model's limit."""
    truncation_side: Side | None = None
    """Which end of documents over the limit to cut off. Default: right."""
    instruction: Instruction | None = None
    """Tells the model what makes a document relevant. Replaces the instruction in the model's template or prompt; only
    for models that have one there."""


class RerankRequest(RerankInput, kw_only=True):
    """A query, and the documents to rank by their relevance to it."""

    model: str | None = None
    """A name or alias from /v1/models. Default: the default rerank model."""
    top_n: Annotated[int, Meta(ge=0)] | None = None
    """How many results to return, best first. Default, and for 0: all."""
    return_documents: bool | None = None
    """Whether results include their document. Default: true."""
    truncate: bool | None = None
    """Whether to truncate documents over the limit; if false, they are an error. Default: true."""
    top_k: Annotated[int, Meta(ge=1)] | None = None
    """Voyage's alias of top_n."""
    truncation: bool | None = None
    """Voyage's alias of truncate."""
    instruct: Instruction | None = None
    """An alias of instruction."""
    refused: ClassVar[Mapping[str, Refused]] = {
        "use_activation": Refused("use raw_scores instead", (True,)),
    }


class Result(Struct, omit_defaults=True):
    """A document's score."""

    index: int
    relevance_score: float
    document: Document | UnsetType = UNSET


class PromptTokensDetails(Struct):
    """OpenAI's details of input tokens. Always 0: there is no caching and no audio."""

    cached_tokens: int = 0
    audio_tokens: int = 0


class CompletionTokensDetails(Struct):
    """OpenAI's details of output tokens. Always 0: nothing is generated."""

    reasoning_tokens: int = 0
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class RerankUsage(Struct):
    """Tokens in the query (counted once) and the documents, after truncation, including special tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class RerankResponse(Struct):
    """The results by descending relevance. Documents with equal scores keep their order."""

    results: list[Result]
    usage: RerankUsage
    model: str
    data: list[Result] | UnsetType = UNSET
    """The same as results, for Voyage's clients. Present if the request has top_k or truncation."""
    object: Literal["list"] | UnsetType = UNSET
    """Present in the same cases; Infinity's clients reject it."""


async def create(request: Request) -> Response:
    """Answer POST /v1/rerank."""
    return await rank(request, await read(request, RerankRequest))


async def rank(request: Request, body: RerankRequest) -> Response:
    """Answer a request whose body has been read."""
    is_voyage = body.top_k is not None or body.truncation is not None
    resolve_aliases(body, ALIASES)
    text_model = find_ranker(request, body.model)
    ranking = await rank_documents(request, text_model, body, truncates=body.truncate is not False)
    with_documents = body.return_documents is not False
    results = [
        Result(
            index=ranked.index,
            relevance_score=ranked.score,
            document=as_object(body.documents[ranked.index]) if with_documents else UNSET,
        )
        for ranked in ranking.results[: body.top_n or None]
    ]
    response = RerankResponse(
        results=results,
        model=text_model.name,
        data=results if is_voyage else UNSET,
        object="list" if is_voyage else UNSET,
        usage=RerankUsage(
            prompt_tokens=ranking.tokens,
            completion_tokens=0,
            total_tokens=ranking.tokens,
            prompt_tokens_details=PromptTokensDetails(),
            completion_tokens_details=CompletionTokensDetails(),
        ),
    )
    return await large_json_response(request, lambda: response)


async def rank_documents(
    request: Request, text_model: TextModel, body: RerankInput, *, truncates: bool = True
) -> Ranking:
    """Rank the documents of a request. If not `truncates`, documents over the limit are an error."""
    texts = _read_documents(request, body.documents, body.rank_fields)
    truncate, limit = resolve_truncation(
        "end" if truncates else "none", body.truncate_prompt_tokens, body.truncation_side, is_forbidden=not truncates
    )
    return await rank_texts(
        request,
        _limited(text_model, limit),
        body.query,
        texts,
        truncate=truncate,
        max_tokens=min(filter(None, (body.max_tokens_per_doc, limit)), default=None),
        raw=body.raw_scores is True,
        instruction=body.instruction,
    )


def _limited(text_model: TextModel, limit: int | None) -> TextModel:
    """A cross-encoder with a lower limit for query and document together; any other model unchanged."""
    if limit is None or text_model.role != CROSS_ENCODER:
        return text_model
    return replace(text_model, max_tokens=min(text_model.max_tokens, limit))


def as_object(document: str | Document) -> Document:
    """A document as results include it."""
    return {TEXT: document} if isinstance(document, str) else document


def _read_documents(
    request: Request, documents: Sequence[str | Document], rank_fields: Sequence[str] | None
) -> list[str]:
    """The text of every document. Without `rank_fields`, records the other fields of objects as ignored.

    Raises:
        InvalidRequest: an object has no text, or none of the fields to rank on, or one of these is not a string.
    """
    fields = list(dict.fromkeys(rank_fields or (TEXT,)))  # each once, or the texts could be much larger than the body
    texts = []
    first: dict[str, int] = {}
    for i, document in enumerate(documents):
        if isinstance(document, str):
            texts.append(document)
            continue
        texts.append(_text(document, f"documents[{i}]", fields))
        for name in document:
            if len(first) == MAX_IGNORED:
                break
            if name != TEXT:
                first.setdefault(name, i)
    if rank_fields is None:
        record_ignored(request, {f"documents[].{name}": f"documents[{i}].{name}" for name, i in first.items()})
    return texts


def _text(document: Document, place: str, fields: Sequence[str]) -> str:
    parts = [(name, document[name]) for name in fields if document.get(name) is not None]
    if not parts:
        missing = f"{place}.{fields[0]}"
        if len(fields) == 1:
            raise InvalidRequest(f"{missing} is required", param=missing)
        raise InvalidRequest(f"{place} has none of the fields {', '.join(fields)}", param=missing)
    for name, part in parts:
        if not isinstance(part, str):
            raise InvalidRequest(f"{place}.{name}: Expected `str`", param=f"{place}.{name}")
    return "\n".join(part for _, part in parts)


OPERATIONS = (
    Operation(
        "post",
        "/v1/rerank",
        "rerank",
        "Rank documents by relevance to a query",
        create,
        RerankResponse,
        RerankRequest,
        {"query": QUERY, "documents": DOCUMENTS},
    ),
)
