"""POST /v1/rerank, as the clients of Jina, Cohere, Voyage, Infinity and vLLM call it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from gateway.catalog import TextModel
from gateway.contract import CROSS_ENCODER
from gateway.errors import InvalidRequest
from gateway.routes.body import ignore, read, rename
from gateway.routes.calls import find_ranker, rank_texts
from gateway.routes.decoding import MAX_IGNORED, Refused
from gateway.routes.fields import Instruction, PromptTokens, Side, prompt_tokens
from gateway.routes.http import Request, large_json_response
from gateway.routes.operation import Operation
from gateway.service.rerank import Ranking
from gateway.service.text_batches import MAX_ROWS

QUERY, DOCUMENTS = "Who plays a shell?", ["A conch can be blown like a trumpet.", "Brass is an alloy."]
"""An example, for the operations that rank."""
OTHER_NAMES = {"top_k": "top_n", "truncation": "truncate", "instruct": "instruction"}


Document = dict[str, Any]
"""A document as an object: its text, and what else belongs to it."""
TEXT = "text"
RankFields = Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1, max_length=64)]
"""Which fields of a document make its text, in this order; one that is named again counts once."""


class RerankRequest(Struct, forbid_unknown_fields=True):
    """What to rank by what."""

    query: Annotated[str, Meta(min_length=1)]
    """Never cut: it may fill half of the model's limit."""
    documents: Annotated[list[str | Document], Meta(min_length=1, max_length=MAX_ROWS)]
    """Texts, or objects with a text."""
    model: str | None = None
    """A name or alias from /v1/models; left out, the default rerank model answers."""
    rank_fields: RankFields | None = None
    """Which fields of documents to rank on, joined by line breaks in this order; by default `text`."""
    top_n: Annotated[int, Meta(ge=0)] | None = None
    """How many results to send, best first; all of them by default, for 0 and beyond the last."""
    return_documents: bool | None = None
    """Whether results carry their document, as by default."""
    raw_scores: bool | None = None
    """Whether scores are a cross-encoder's logits, as Infinity and TEI have it."""
    max_tokens_per_doc: Annotated[int, Meta(ge=8)] | None = None
    """A limit below the model's own."""
    truncate: bool | None = None
    """Whether to cut documents over the limit, as by default; otherwise they are an error."""
    top_k: Annotated[int, Meta(ge=1)] | None = None
    """Voyage's name of top_n."""
    truncation: bool | None = None
    """Voyage's name of truncate."""
    truncate_prompt_tokens: PromptTokens | None = None
    """As vLLM has it, a limit below the model's own for a document, or for query and document where a model reads them
    together. -1 is the model's."""
    truncation_side: Side | None = None
    """Where documents are cut, right by default; left keeps their end."""
    instruction: Instruction | None = None
    """What makes a document relevant, in place of what the model's template or prompt says; only for models that have a
    place for it there."""
    instruct: Instruction | None = None
    """Another name of instruction."""
    refused: ClassVar[Mapping[str, Refused]] = {
        "use_activation": Refused("send raw_scores", (True,)),
    }


class Result(Struct, omit_defaults=True):
    """One document's place."""

    index: int
    relevance_score: float
    document: Document | UnsetType = UNSET


class PromptTokensDetails(Struct):
    """As OpenAI has it; nothing here is cached or sound."""

    cached_tokens: int = 0
    audio_tokens: int = 0


class CompletionTokensDetails(Struct):
    """As OpenAI has it; nothing is generated."""

    reasoning_tokens: int = 0
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class RerankUsage(Struct):
    """Tokens of the query, once, and of the documents as far as they were read; those around them included."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class RerankResponse(Struct):
    """Results, best first; equal scores in the order of the documents."""

    results: list[Result]
    usage: RerankUsage
    model: str
    data: list[Result] | UnsetType = UNSET
    """The same as results, where Voyage's clients look for them: for those who send top_k or truncation."""
    object: Literal["list"] | UnsetType = UNSET
    """For the same clients; Infinity's refuse it."""


async def create(request: Request) -> Response:
    """Answer POST /v1/rerank."""
    return await rank(request, await read(request, RerankRequest))


async def rank(request: Request, body: RerankRequest) -> Response:
    """Answer a request whose body has been read."""
    is_voyage = body.top_k is not None or body.truncation is not None
    text_model, ranking = await rank_documents(request, body)
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


async def rank_documents(request: Request, body: RerankRequest) -> tuple[TextModel, Ranking]:
    """Which model ranks, and how."""
    rename(body, OTHER_NAMES)
    text_model = find_ranker(request, body.model)
    texts = _read_documents(request, body.documents, body.rank_fields)
    is_whole = body.truncate is False
    truncate, most = prompt_tokens(
        body.truncate_prompt_tokens, body.truncation_side, "none" if is_whole else "end", is_refused=is_whole
    )
    ranking = await rank_texts(
        request,
        _limited(text_model, most),
        body.query,
        texts,
        truncate=truncate,
        max_tokens=min(filter(None, (body.max_tokens_per_doc, most)), default=None),
        raw=body.raw_scores is True,
        instruction=body.instruction,
    )
    return text_model, ranking


def _limited(text_model: TextModel, most: int | None) -> TextModel:
    """A model that reads query and document together, as though it took no more tokens than this."""
    if most is None or text_model.role != CROSS_ENCODER:
        return text_model
    return replace(text_model, max_tokens=min(text_model.max_tokens, most))


def as_object(document: str | Document) -> Document:
    """A document as results have it."""
    return {TEXT: document} if isinstance(document, str) else document


def _read_documents(
    request: Request, documents: Sequence[str | Document], rank_fields: Sequence[str] | None
) -> list[str]:
    """The text of every document; notes what is left out of objects where nobody has chosen among their fields.

    Raises:
        InvalidRequest: an object has no text, or none of the fields to rank on, or one of these is no string.
    """
    fields = list(dict.fromkeys(rank_fields or (TEXT,)))  # each once, or documents could become many times the body
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
        ignore(request, {f"documents[].{name}": f"documents[{i}].{name}" for name, i in first.items()})
    return texts


def _text(document: Document, place: str, fields: Sequence[str]) -> str:
    parts = [(name, document[name]) for name in fields if document.get(name) is not None]
    if not parts:
        wanted = f"{place}.{fields[0]}"
        raise InvalidRequest(
            f"{wanted} is required" if len(fields) == 1 else f"{place} has none of {', '.join(fields)}", param=wanted
        )
    for name, part in parts:
        if not isinstance(part, str):
            raise InvalidRequest(f"{place}.{name}: Expected `str`", param=f"{place}.{name}")
    return "\n".join(part for _, part in parts)


OPERATIONS = (
    Operation(
        "post",
        "/v1/rerank",
        "rerank",
        "Rank documents by a query",
        create,
        RerankResponse,
        RerankRequest,
        {"query": QUERY, "documents": DOCUMENTS},
    ),
)
