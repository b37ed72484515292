"""POST /v1/rerank, for clients of Jina, Cohere, Voyage, Infinity and vLLM."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import msgspec
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
from gateway.service import hybrid
from gateway.service.chunks import Chunking
from gateway.service.hybrid import Mode, Weights
from gateway.service.rerank import Ranked
from gateway.service.text_batches import MAX_ROWS

QUERY, DOCUMENTS = "Who plays a shell?", ["A conch can be blown like a trumpet.", "Brass is an alloy."]
"""The example of the operations that rank."""
ALIASES = {"top_k": "top_n", "truncation": "truncate", "instruct": "instruction"}

Document = dict[str, Any]
"""A document as an object with a text and other fields."""
TEXT = "text"
RankFields = Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1, max_length=64)]
"""The fields of a document that form its text, in this order. A repeated field counts once."""


Weight = Annotated[float, Meta(ge=0, le=1e6)]


class ModeWeights(Struct, forbid_unknown_fields=True):
    """How much each kind of score counts. A kind with weight 0 is not computed."""

    dense: Weight = 0
    """Of the cosine of the dense vectors of query and document."""
    sparse: Weight = 0
    """Of the dot product of their sparse vectors."""
    multi_vector: Weight = 0
    """Of the model's late interaction."""
    refused: ClassVar[Mapping[str, Refused]] = {
        "colbert": Refused("use multi_vector instead"),
        "lexical": Refused("use sparse instead"),
    }


class ModeScores(Struct, omit_defaults=True):
    """The scores by kind."""

    dense: float | UnsetType = UNSET
    sparse: float | UnsetType = UNSET
    multi_vector: float | UnsetType = UNSET


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
    """A limit for each document, lower than the model's. If documents are split, it is one for all of their chunks."""
    max_chunks_per_doc: Annotated[int, Meta(ge=1)] | None = None
    """How many chunks a document may have, as in Cohere's first API. What is left is truncated. With this or one of the
    next two fields, documents are split into chunks, and a document's score is that of its best chunk."""
    max_tokens_per_chunk: Annotated[int, Meta(ge=8)] | None = None
    """How many tokens of a document a chunk may have. Default, if documents are split: as many as the query leaves."""
    overlap_tokens: Annotated[int, Meta(ge=0)] | None = None
    """How many tokens of a chunk, at most half of it, may be repeated in the next. Default: 0."""
    weights: ModeWeights | None = None
    """For models with dense, sparse and multi-vector output, such as bge-m3: a document's score is the weighted mean of
    these scores. Default: the multi-vector score alone."""
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


class BestChunk(Struct):
    """The chunk of a document that has its score."""

    index: int
    """Position in the document's chunks."""
    start: int
    """In characters (Unicode code points) of the document's text."""
    end: int
    text: str | UnsetType = UNSET
    """Present if results include documents."""


class Result(Struct, omit_defaults=True):
    """A document's score."""

    index: int
    relevance_score: float
    document: Document | UnsetType = UNSET
    chunk: BestChunk | UnsetType = UNSET
    """Present if documents are split into chunks."""
    scores: ModeScores | UnsetType = UNSET
    """What relevance_score is the weighted mean of. Present if the request has weights."""


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
    results, tokens = await rank_documents(
        request,
        text_model,
        body,
        top_n=body.top_n or None,
        with_documents=body.return_documents is not False,
        truncates=body.truncate is not False,
    )
    response = RerankResponse(
        results=results,
        model=text_model.name,
        data=results if is_voyage else UNSET,
        object="list" if is_voyage else UNSET,
        usage=RerankUsage(
            prompt_tokens=tokens,
            completion_tokens=0,
            total_tokens=tokens,
            prompt_tokens_details=PromptTokensDetails(),
            completion_tokens_details=CompletionTokensDetails(),
        ),
    )
    return await large_json_response(request, lambda: response)


async def rank_documents(
    request: Request,
    text_model: TextModel,
    body: RerankInput,
    *,
    top_n: int | None,
    with_documents: bool,
    truncates: bool = True,
) -> tuple[list[Result], int]:
    """The best results of a request, and the number of its tokens.

    Args:
        request: its body has been read.
        text_model: from `find_ranker`.
        body: of the request.
        top_n: how many results to return; None for all.
        with_documents: whether results include their documents.
        truncates: whether to truncate documents over the limit; otherwise they are an error.
    """
    texts = _read_documents(request, body.documents, body.rank_fields)
    truncate, limit = resolve_truncation(
        "end" if truncates else "none", body.truncate_prompt_tokens, body.truncation_side, is_forbidden=not truncates
    )
    ranking = await rank_texts(
        request,
        _limited(text_model, limit),
        body.query,
        texts,
        truncate=truncate,
        max_tokens=min(filter(None, (body.max_tokens_per_doc, limit)), default=None),
        raw=body.raw_scores is True,
        instruction=body.instruction,
        chunking=_chunking(body),
        weights=_weights(body),
    )

    def describe(ranked: Ranked) -> Result:
        result = Result(ranked.index, ranked.score)
        if with_documents:
            result.document = as_object(body.documents[ranked.index])
        if _chunking(body) is not None:
            chunk = ranked.chunk
            result.chunk = BestChunk(chunk.index, chunk.start, chunk.end)
            if with_documents:
                result.chunk.text = texts[ranked.index][chunk.start : chunk.end]
        if ranked.modes:
            result.scores = msgspec.convert(ranked.modes, ModeScores)
        return result

    return [describe(ranked) for ranked in ranking.results[:top_n]], ranking.tokens


def _chunking(body: RerankInput) -> Chunking | None:
    """How to split documents; None if they are not split."""
    if (body.max_chunks_per_doc, body.max_tokens_per_chunk, body.overlap_tokens) == (None, None, None):
        return None
    return Chunking(body.max_tokens_per_chunk, body.overlap_tokens or 0, body.max_chunks_per_doc)


def _weights(body: RerankInput) -> Weights | None:
    """The weights above 0; None if the request has none.

    Raises:
        InvalidRequest: it has, but all are 0.
    """
    if body.weights is None:
        return None
    given: dict[Mode, float] = {
        "dense": body.weights.dense,
        "sparse": body.weights.sparse,
        "multi_vector": body.weights.multi_vector,
    }
    weights: dict[Mode, float] = {mode: weight for mode, weight in given.items() if weight}
    if not weights:
        raise InvalidRequest("weights needs dense, sparse or multi_vector above 0", param=hybrid.FIELD)
    return weights


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
