"""POST /v1/rerank, as the clients of Jina, Cohere and Voyage call it."""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from gateway.routes.http import Instruction, Request, answer_much, caller, find_ranker, read, rename
from gateway.service.rerank import rerank
from gateway.service.rows import MAX_ROWS

OTHER_NAMES = {"top_k": "top_n", "truncation": "truncate", "instruct": "instruction"}


class Document(Struct, forbid_unknown_fields=True):
    """A document as an object."""

    text: str


class RerankRequest(Struct, forbid_unknown_fields=True):
    """What to rank by what."""

    query: Annotated[str, Meta(min_length=1)]
    """Never cut: it may fill half of the model's limit."""
    documents: Annotated[list[str | Document], Meta(min_length=1, max_length=MAX_ROWS)]
    model: str | None = None
    """A name or alias from /v1/models; left out, the default rerank model answers."""
    top_n: Annotated[int, Meta(ge=0)] | None = None
    """How many results to send, best first; all of them by default, for 0 and beyond the last."""
    return_documents: bool | None = True
    """Whether results carry their document."""
    max_tokens_per_doc: Annotated[int, Meta(ge=8)] | None = None
    """A limit below the model's own."""
    truncate: bool | None = None
    """Whether to cut documents over the limit, as by default; otherwise they are an error."""
    top_k: Annotated[int, Meta(ge=1)] | None = None
    """Voyage's name of top_n."""
    truncation: bool | None = None
    """Voyage's name of truncate."""
    instruction: Instruction | None = None
    """What makes a document relevant, in place of what the model's template or prompt says; only for models that have a
    place for it there."""
    instruct: Instruction | None = None
    """Another name of instruction."""


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


async def create(request: Request) -> Response:
    """Answer POST /v1/rerank."""
    body = await read(request, RerankRequest)
    rename(body, OTHER_NAMES)
    tower = find_ranker(request, body.model)
    texts = [document if isinstance(document, str) else document.text for document in body.documents]
    ranking = await rerank(
        caller(request),
        tower,
        body.query,
        texts,
        truncate="none" if body.truncate is False else "end",
        max_tokens_per_document=body.max_tokens_per_doc,
        instruction=body.instruction,
    )
    request.state["log"] |= {"inputs": len(texts), "tokens": ranking.tokens}
    with_documents = body.return_documents is not False
    results = [
        Result(
            index=ranked.index,
            relevance_score=ranked.score,
            document=Document(texts[ranked.index]) if with_documents else UNSET,
        )
        for ranked in ranking.results[: body.top_n or None]
    ]
    response = RerankResponse(
        results=results,
        model=tower.name,
        data=UNSET if body.top_k is None and body.truncation is None else results,
        usage=RerankUsage(
            prompt_tokens=ranking.tokens,
            completion_tokens=0,
            total_tokens=ranking.tokens,
            prompt_tokens_details=PromptTokensDetails(),
            completion_tokens_details=CompletionTokensDetails(),
        ),
    )
    return await answer_much(request, lambda: response)
