"""POST /v2/embed, /v2/rerank and, for clients of Cohere's first API, /v1/embed."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from starlette.responses import Response

from gateway import vectors
from gateway.catalog import Model
from gateway.contract import EMBEDDING_ROLES
from gateway.error_body import Dialect
from gateway.errors import InvalidRequest
from gateway.routes import encodings
from gateway.routes.body import read
from gateway.routes.calls import embed_items, find_model
from gateway.routes.decoding import Refused
from gateway.routes.encodings import EmbeddingType
from gateway.routes.fields import TRUNCATIONS, Instruction, PromptTokens, Side, Truncation
from gateway.routes.http import Request, large_json_response
from gateway.routes.operation import Operation
from gateway.routes.rerank import DOCUMENTS, QUERY, Document, RankFields, RerankRequest, as_object, rank_documents
from gateway.service.embed import Item
from gateway.service.text_batches import MAX_ROWS

UNIT = {name: Refused("vectors here always have length 1", (True,)) for name in ("normalized", "normalize")}


class CohereError(Struct):
    """The body of a failure."""

    id: str
    message: str


class TextContent(Struct, tag="text", forbid_unknown_fields=True):
    """A text in an input."""

    text: str


class ImageUrl(Struct, forbid_unknown_fields=True):
    """Where an image is."""

    url: str
    """A data: URI, or an http(s) URL where the server fetches images."""
    detail: str | None = None
    """Accepted, not used."""


class ImageContent(Struct, tag="image_url", forbid_unknown_fields=True):
    """An image in an input."""

    image_url: ImageUrl


class EmbedInput(Struct, forbid_unknown_fields=True):
    """What one vector is made of: a text, an image, or one of each."""

    content: Annotated[list[TextContent | ImageContent], Meta(min_length=1, max_length=2)]


class EmbedRequest(Struct, forbid_unknown_fields=True):
    """What to embed and how to answer. Exactly one of texts, images and inputs is given."""

    model: str
    """A name or alias from /v1/models."""
    input_type: str
    """What the vectors are for: search_document, search_query, classification, clustering or image. The model's prompt
    for it goes in front of texts."""
    texts: Annotated[list[str], Meta(min_length=1, max_length=MAX_ROWS)] | None = None
    images: Annotated[list[str], Meta(min_length=1, max_length=MAX_ROWS)] | None = None
    inputs: Annotated[list[EmbedInput], Meta(min_length=1, max_length=MAX_ROWS)] | None = None
    embedding_types: Annotated[list[EmbeddingType], Meta(min_length=1)] | None = None
    """What numbers to send, float by default."""
    output_dimension: Annotated[int, Meta(ge=0)] | None = None
    """Cut vectors to this size and normalise again; only sizes that the model was trained for. 0 means all."""
    truncate: Truncation | None = None
    """Which end of a text over the model's limit to leave out, by default END; with NONE it is an error."""
    max_tokens: Annotated[int, Meta(ge=8)] | None = None
    """A limit below the model's own."""
    priority: int | None = None
    """Accepted, not used: turns are fair."""
    refused: ClassVar[Mapping[str, Refused]] = UNIT | {
        "dimensions": Refused("here this is called output_dimension"),
        "truncate_prompt_tokens": Refused("here this is called max_tokens"),
    }


class V1EmbedRequest(Struct, forbid_unknown_fields=True):
    """As EmbedRequest, less what the second API brought."""

    model: str | None = None
    """A name or alias from /v1/models; left out, the default embedding model answers."""
    input_type: str | None = None
    texts: Annotated[list[str], Meta(min_length=1, max_length=MAX_ROWS)] | None = None
    images: Annotated[list[str], Meta(min_length=1, max_length=MAX_ROWS)] | None = None
    embedding_types: Annotated[list[EmbeddingType], Meta(min_length=1)] | None = None
    """What numbers to send; left out, the answer is one list of float vectors."""
    truncate: Truncation | None = None
    refused: ClassVar[Mapping[str, Refused]] = UNIT | {
        name: Refused("POST /v2/embed takes this") for name in ("inputs", "max_tokens", "output_dimension")
    }


class BilledUnits(Struct, omit_defaults=True):
    """What was computed."""

    input_tokens: int = 0
    image_tokens: int = 0
    search_units: int = 0


class ApiVersion(Struct):
    """Of this API."""

    version: Literal["1", "2"]


class CohereMeta(Struct):
    """About the answer."""

    api_version: ApiVersion
    billed_units: BilledUnits


class EmbedResponse(Struct, tag_field="response_type", tag="embeddings_by_type"):
    """A list of vectors for each type that was asked for."""

    id: str
    embeddings: dict[EmbeddingType, list[Raw]]
    texts: list[str]
    meta: CohereMeta


class FloatsResponse(Struct, tag_field="response_type", tag="embeddings_floats"):
    """The first API's answer to those who ask for no type."""

    id: str
    embeddings: list[Raw]
    texts: list[str]
    meta: CohereMeta


class V2RerankRequest(Struct, forbid_unknown_fields=True):
    """What to rank by what."""

    model: str
    query: Annotated[str, Meta(min_length=1)]
    documents: Annotated[list[str | Document], Meta(min_length=1, max_length=MAX_ROWS)]
    """Texts, or objects with a text."""
    rank_fields: RankFields | None = None
    """Which fields of documents to rank on, joined by line breaks in this order; by default `text`."""
    top_n: Annotated[int, Meta(ge=1)] | None = None
    max_tokens_per_doc: Annotated[int, Meta(ge=8)] | None = None
    """A limit below the model's own; documents over either are cut."""
    return_documents: bool | None = None
    """Whether results carry their document, as LiteLLM asks for."""
    truncate_prompt_tokens: PromptTokens | None = None
    """As on /v1/rerank, where vLLM's clients have it from."""
    truncation_side: Side | None = None
    raw_scores: bool | None = None
    """Whether scores are a cross-encoder's logits."""
    instruction: Instruction | None = None
    """What makes a document relevant, as on /v1/rerank."""
    refused: ClassVar[Mapping[str, Refused]] = RerankRequest.refused
    priority: int | None = None
    """Accepted, not used: turns are fair."""


class V2Result(Struct, omit_defaults=True):
    """One document's place."""

    index: int
    relevance_score: float
    document: Document | UnsetType = UNSET


class V2RerankResponse(Struct):
    """Results, best first."""

    id: str
    results: list[V2Result]
    meta: CohereMeta


COHERE = Dialect(CohereError, lambda failure: CohereError(failure.request_id, failure.message))


async def create_embeddings(request: Request) -> Response:
    """Answer POST /v2/embed."""
    body = await read(request, EmbedRequest)
    model = find_model(request, body.model, EMBEDDING_ROLES)
    size = encodings.size(model, body.output_dimension or None, "output_dimension")
    return await _embed(request, model, body, size, "2")


async def create_v1_embeddings(request: Request) -> Response:
    """Answer POST /v1/embed."""
    body = await read(request, V1EmbedRequest)
    model = find_model(request, body.model, EMBEDDING_ROLES)
    return await _embed(request, model, body, model.width, "1")


async def _embed(
    request: Request, model: Model, body: EmbedRequest | V1EmbedRequest, size: int, version: Literal["1", "2"]
) -> Response:
    default: list[EmbeddingType] = ["float"]
    kinds = list(dict.fromkeys(body.embedding_types or default))
    encodings.check(kinds, size, "embedding_types")
    embedded = await embed_items(
        request,
        model,
        _items(body),
        purpose=None if body.input_type == "image" else body.input_type,
        place="input_type",
        truncate=TRUNCATIONS[body.truncate or "END"],
        max_tokens=body.max_tokens if isinstance(body, EmbedRequest) else None,
    )

    def make() -> EmbedResponse | FloatsResponse:
        floats = vectors.normalise(embedded.vectors[:, :size])
        rows = {kind: [Raw(row) for row in encodings.column(floats, kind)] for kind in kinds}
        meta = _meta(BilledUnits(input_tokens=embedded.text_tokens, image_tokens=embedded.image_tokens), version)
        request_id, texts = request.state["record"].request_id, body.texts or []
        if version == "1" and body.embedding_types is None:
            return FloatsResponse(request_id, rows["float"], texts, meta)
        return EmbedResponse(request_id, rows, texts, meta)

    return await large_json_response(request, make, embedded.vectors.size * len(kinds))


def _items(body: EmbedRequest | V1EmbedRequest) -> list[Item]:
    inputs = body.inputs if isinstance(body, EmbedRequest) else None
    choices = {"texts": body.texts, "images": body.images, "inputs": inputs}
    given = [name for name, choice in choices.items() if choice is not None]
    if len(given) != 1:
        raise InvalidRequest(
            f"exactly one of texts, images and inputs is needed, not {' and '.join(given) or 'none'}",
            param=given[0] if given else "texts",
        )
    if body.texts is not None:
        return [Item(f"texts[{i}]", text) for i, text in enumerate(body.texts)]
    if body.images is not None:
        return [Item(f"images[{i}]", image=image, image_place=f"images[{i}]") for i, image in enumerate(body.images)]
    return [_item(item, f"inputs[{i}]") for i, item in enumerate(inputs or [])]


def _item(given: EmbedInput, place: str) -> Item:
    texts = [part.text for part in given.content if isinstance(part, TextContent)]
    images = [part.image_url.url for part in given.content if isinstance(part, ImageContent)]
    if len(texts) > 1 or len(images) > 1:
        raise InvalidRequest(f"{place} holds two of a kind; one text and one image make a vector", param=place)
    return Item(place, next(iter(texts), None), next(iter(images), None), image_place=place)


async def create_ranking(request: Request) -> Response:
    """Answer POST /v2/rerank."""
    body = await read(request, V2RerankRequest)
    _, ranking = await rank_documents(
        request,
        RerankRequest(
            query=body.query,
            documents=body.documents,
            model=body.model,
            rank_fields=body.rank_fields,
            raw_scores=body.raw_scores,
            max_tokens_per_doc=body.max_tokens_per_doc,
            truncate_prompt_tokens=body.truncate_prompt_tokens,
            truncation_side=body.truncation_side,
            instruction=body.instruction,
        ),
    )
    response = V2RerankResponse(
        id=request.state["record"].request_id,
        results=[
            V2Result(
                ranked.index,
                ranked.score,
                as_object(body.documents[ranked.index]) if body.return_documents else UNSET,
            )
            for ranked in ranking.results[: body.top_n]
        ],
        meta=_meta(BilledUnits(search_units=1)),
    )
    return await large_json_response(request, lambda: response)


def _meta(billed: BilledUnits, version: Literal["1", "2"] = "2") -> CohereMeta:
    return CohereMeta(ApiVersion(version), billed)


OPERATIONS = tuple(
    replace(operation, dialect=COHERE, tag="Cohere")
    for operation in (
        Operation(
            "post",
            "/v1/embed",
            "cohereV1Embed",
            "Embed texts and images, as Cohere did first",
            create_v1_embeddings,
            EmbedResponse | FloatsResponse,
            V1EmbedRequest,
            {"texts": ["a shell"], "input_type": "search_document"},
        ),
        Operation(
            "post",
            "/v2/embed",
            "cohereEmbed",
            "Embed texts and images, as Cohere does",
            create_embeddings,
            EmbedResponse,
            EmbedRequest,
            {"model": "all-minilm-l6-v2", "input_type": "search_document", "texts": ["a shell"]},
        ),
        Operation(
            "post",
            "/v2/rerank",
            "cohereRerank",
            "Rank documents by a query, as Cohere does",
            create_ranking,
            V2RerankResponse,
            V2RerankRequest,
            {"model": "minilm-late-interaction", "query": QUERY, "documents": DOCUMENTS},
        ),
    )
)
