"""POST /v1/rerank, for clients of Jina, Cohere, Voyage, Infinity and vLLM."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from gateway.catalog import Model, Offer, TextModel
from gateway.contract import CROSS_ENCODER
from gateway.errors import InvalidRequest
from gateway.images.processors import Area
from gateway.routes.body import read, record_ignored
from gateway.routes.calls import find_model, rank_by_cosine, rank_contents, rank_texts, text_model
from gateway.routes.content import (
    InputItem,
    Parts,
    PixelBounds,
    as_parts,
    is_image,
    read_each,
    read_item,
    read_pixels,
    simple,
)
from gateway.routes.decoding import MAX_IGNORED, Refused
from gateway.routes.fields import (
    IgnoredFields,
    Instruction,
    PromptTokens,
    Side,
    resolve_truncation,
    wants_logits,
)
from gateway.routes.http import Request, large_json_response
from gateway.routes.operation import Operation
from gateway.service import hybrid
from gateway.service.chunks import Chunking
from gateway.service.contents import Content, Picture
from gateway.service.embed import DENSE
from gateway.service.hybrid import Mode, Weights
from gateway.service.rerank import Ranked
from gateway.service.text_batches import MAX_ROWS

QUERY, DOCUMENTS = "Who plays a shell?", ["A conch can be blown like a trumpet.", "Brass is an alloy."]
"""The example of the operations that rank."""

Document = dict[str, Any]
"""A document as an object with a text and other fields."""
TEXT, CONTENT = "text", "content"
IMAGES = ("image", "url")
"""The fields of a document that may hold its image, as in Jina's API."""
RANKERS: frozenset[Offer] = frozenset({"rerank"})
CHUNKING = ("max_chunks_per_doc", "max_tokens_per_chunk", "overlap_tokens")
"""Fields of requests, each of which splits documents."""
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


class Contents(Struct, forbid_unknown_fields=True):
    """Several texts and images."""

    content: Parts


class RerankInput(IgnoredFields, forbid_unknown_fields=True, kw_only=True):
    """The fields that /v1/rerank and /v2/rerank share."""

    query: Annotated[str, Meta(min_length=1)] | InputItem
    """A text or, for models that take images, an object. Never truncated. It may take up to half of the model's
    limit."""
    documents: Annotated[list[str | Document], Meta(min_length=1, max_length=MAX_ROWS)] | Contents
    """Texts, or objects with a text. For models that take images, objects may also have `image`, `url` or `content`, a
    list of texts and images. An object with `content` instead of a list has one document for each of its parts, as in
    vLLM's API."""
    rank_fields: RankFields | None = None
    """The fields of documents to rank on, joined by line breaks in this order. Default: `text`."""
    raw_scores: bool | None = None
    """Whether scores are a cross-encoder's logits, as in the APIs of Infinity and TEI."""
    use_activation: bool | None = None
    """The opposite of raw_scores, as in vLLM's API."""
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
    min_pixels: Area | None = None
    """Enlarge images to this many pixels, within the limits of the model. For models that take images of any size."""
    max_pixels: Area | None = None
    """Shrink images to this many pixels, within the limits of the model."""
    mm_processor_kwargs: PixelBounds | None = None
    """vLLM's place for min_pixels and max_pixels."""


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
    aliases: ClassVar[Mapping[str, str]] = {"top_k": "top_n", "truncation": "truncate", "instruct": "instruction"}


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

    @staticmethod
    def of(tokens: int) -> "RerankUsage":
        """The usage of so many tokens."""
        return RerankUsage(tokens, 0, tokens, PromptTokensDetails(), CompletionTokensDetails())


class RerankResponse(Struct):
    """The results by descending relevance. Documents with equal scores keep their order."""

    results: list[Result]
    usage: RerankUsage
    model: str
    id: str
    """The id of the request, for clients of vLLM."""
    data: list[Result]
    """The same as results, for Voyage's clients, but with documents only if return_documents is true."""
    object: Literal["list"] | UnsetType = UNSET
    """Present if the request has top_k or truncation, for Voyage's clients; Infinity's reject it."""


async def create(request: Request) -> Response:
    """Answer POST /v1/rerank."""
    return await rank(request, await read(request, RerankRequest))


async def rank(request: Request, body: RerankRequest) -> Response:
    """Answer a request whose body has been read."""
    is_voyage = body.top_k is not None or body.truncation is not None
    model = find_scorer(request, body.model)
    results, tokens = await rank_documents(
        request,
        model,
        body,
        top_n=body.top_n or None,
        with_documents=body.return_documents is not False,
        truncates=body.truncate is not False,
    )
    response = RerankResponse(
        results=results,
        data=results if body.return_documents else [Result(one.index, one.relevance_score) for one in results],
        model=model.name,
        object="list" if is_voyage else UNSET,
        id=request.state["record"].request_id,
        usage=RerankUsage.of(tokens),
    )
    return await large_json_response(request, lambda: response)


def find_scorer(request: Request, name: str | None) -> Model:
    """The model that a request names: a reranker or an embedding model. By default, the default reranker."""
    return find_model(request, name, RANKERS if name is None else RANKERS | DENSE)


async def rank_documents(
    request: Request,
    scorer: Model,
    body: RerankInput,
    *,
    top_n: int | None,
    with_documents: bool,
    truncates: bool = True,
) -> tuple[list[Result], int]:
    """The best results of a request, and the number of its tokens.

    Args:
        request: its body has been read.
        scorer: from `find_scorer`.
        body: of the request.
        top_n: how many results to return; None for all.
        with_documents: whether results include their documents.
        truncates: whether to truncate documents over the limit; otherwise they are an error.
    """
    reader = text_model(scorer)
    given = _given(body.documents)
    place = "documents"
    if isinstance(body.documents, Contents):
        place = "documents.content"
        contents = [*read_each(body.documents.content, place).values()]
    else:
        contents = _read_documents(request, reader, body.documents, body.rank_fields)
    if isinstance(body.query, str):
        query = _string(reader, body.query, "query")
    else:
        query = simple(read_item(body.query, "query"))
    truncate, limit = resolve_truncation(
        "end" if truncates else "none", body.truncate_prompt_tokens, body.truncation_side, is_forbidden=not truncates
    )
    model, raw = _limited(reader, limit), wants_logits(body.raw_scores, body.use_activation)
    max_tokens = min(filter(None, (body.max_tokens_per_doc, limit)), default=None)
    texts = [content for content in contents if isinstance(content, str)]
    if "rerank" not in scorer.offers:
        _check_unsupported(body, f"model {scorer.name!r}", "only rerank models split and weight texts")
        ranking = await rank_by_cosine(
            request,
            scorer,
            query,
            contents,
            place=place,
            truncate=truncate,
            max_tokens=max_tokens,
            instruction=body.instruction,
            pixels=read_pixels(body.min_pixels, body.max_pixels, body.mm_processor_kwargs),
        )
    elif len(texts) == len(contents) and isinstance(query, str):
        ranking = await rank_texts(
            request,
            model,
            query,
            texts,
            place=place,
            truncate=truncate,
            max_tokens=max_tokens,
            raw=raw,
            instruction=body.instruction,
            chunking=_chunking(body),
            weights=_weights(body),
        )
    else:
        _check_unsupported(body, "images", "only texts are split and weighted")
        ranking = await rank_contents(
            request,
            model,
            query,
            contents,
            place=place,
            truncate=truncate,
            max_tokens=max_tokens,
            raw=raw,
            instruction=body.instruction,
            pixels=read_pixels(body.min_pixels, body.max_pixels, body.mm_processor_kwargs),
        )

    def describe(ranked: Ranked) -> Result:
        result = Result(ranked.index, ranked.score)
        if with_documents:
            result.document = as_object(given[ranked.index])
        if _chunking(body) is not None:
            chunk = ranked.chunk
            result.chunk = BestChunk(chunk.index, chunk.start, chunk.end)
            if with_documents:
                result.chunk.text = texts[ranked.index][chunk.start : chunk.end]
        if ranked.modes:
            result.scores = msgspec.convert(ranked.modes, ModeScores)
        return result

    results = [describe(ranked) for ranked in ranking.results[:top_n]]
    return results, ranking.tokens + ranking.image_tokens


def _given(documents: Sequence[str | Document] | Contents) -> Sequence[str | Document]:
    """The documents as a list, as results include them."""
    if isinstance(documents, Contents):
        return [{CONTENT: [msgspec.to_builtins(part)]} for part in documents.content]
    return documents


def _check_unsupported(body: RerankInput, where: str, why: str) -> None:
    """Raise InvalidRequest for what is supported for texts and rerank models only."""
    for name in ("weights", *CHUNKING):
        if getattr(body, name) is not None:
            raise InvalidRequest(f"{name} is not supported for {where}: {why}", param=name)


def _chunking(body: RerankInput) -> Chunking | None:
    """How to split documents; None if they are not split."""
    if all(getattr(body, name) is None for name in CHUNKING):
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
    request: Request, model: TextModel, documents: Sequence[str | Document], rank_fields: Sequence[str] | None
) -> list[str | Content]:
    """The text of every document, or its content if it has images.

    Records fields of objects that are not read as ignored, without `rank_fields`.

    Raises:
        InvalidRequest: an object has no text, or none of the fields to rank on, or one of these is not a string.
    """
    fields = list(dict.fromkeys(rank_fields or (TEXT,)))  # each once, or the texts could be much larger than the body
    contents: list[str | Content] = []
    first: dict[str, int] = {}
    for i, document in enumerate(documents):
        if isinstance(document, str):
            contents.append(_string(model, document, f"documents[{i}]"))
            continue
        content = _content(model, document, f"documents[{i}]", fields)
        contents.append(document_text(document, f"documents[{i}]", fields) if content is None else content)
        for name in document:
            if len(first) == MAX_IGNORED:
                break
            if name != TEXT and (content is None or name not in (*IMAGES, CONTENT)):
                first.setdefault(name, i)
    if rank_fields is None:
        record_ignored(request, {f"documents[].{name}": f"documents[{i}].{name}" for name, i in first.items()})
    return contents


def _string(model: TextModel, text: str, place: str) -> str | Content:
    """A text or, for a model that takes images, perhaps an image, as in `input` of /v1/embeddings."""
    return [Picture(text.strip(), place)] if model.images is not None and is_image(text) else text


def _content(model: TextModel, document: Document, place: str, fields: Sequence[str]) -> str | Content | None:
    """The content of a document with images, or of one in parts; None if only its text counts."""
    has_text = any(document.get(name) is not None for name in fields)
    content = document.get(CONTENT)
    if content is not None and (content or not has_text) and not any(document.get(name) for name in fields):
        if document.get(IMAGES[0]):
            raise InvalidRequest(f"{place} has content and image; send only one of them", param=place)
        return simple(as_parts(content, place))
    # Beside a text, a URL is where the text is from.
    images = [name for name in (IMAGES[:1] if has_text else IMAGES) if document.get(name)]
    if not images or (has_text and model.images is None):
        return None
    if len(images) > 1:
        raise InvalidRequest(f"{place} has more than one of {', '.join(IMAGES)}", param=place)
    name, image = images[0], document[images[0]]
    if not isinstance(image, str):
        raise InvalidRequest(f"{place}.{name}: Expected `str`", param=f"{place}.{name}")
    text = document_text(document, place, fields) if has_text else ""
    return [*filter(None, [text]), Picture(image.strip(), f"{place}.{name}")]


def document_text(document: Document, place: str, fields: Sequence[str]) -> str:
    """The text of a document: those of its fields to rank on, joined by line breaks.

    Raises:
        InvalidRequest: it has none of them, or one of them is no string.
    """
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
