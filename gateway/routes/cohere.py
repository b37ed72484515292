"""Cohere's API: POST /v2/embed, /v2/rerank and, for clients of its first version, /v1/embed."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from starlette.responses import Response

from gateway import vectors
from gateway.catalog import Model
from gateway.error_body import ErrorFormat
from gateway.errors import InvalidRequest
from gateway.routes import encodings
from gateway.routes.body import read
from gateway.routes.calls import embed_items, find_model
from gateway.routes.content import Parts, read_parts
from gateway.routes.decoding import Refused
from gateway.routes.encodings import EmbeddingType
from gateway.routes.fields import TRUNCATIONS, Truncation
from gateway.routes.http import Request, large_json_response
from gateway.routes.operation import Operation
from gateway.routes.rerank import DOCUMENTS, QUERY, RerankInput, RerankUsage, Result, find_scorer, rank_documents
from gateway.service.embed import DENSE, Item
from gateway.service.text_batches import MAX_ROWS

NORMALIZED = {name: Refused("vectors are always normalized", (True,)) for name in ("normalized", "normalize")}


class CohereError(Struct):
    """The body of an error response."""

    id: str
    message: str


class EmbedInput(Struct, forbid_unknown_fields=True):
    """The input for one vector: texts and images. Models that do not read them together take one of each at most."""

    content: Parts


class EmbedRequest(Struct, forbid_unknown_fields=True):
    """The inputs to embed, in exactly one of `texts`, `images` and `inputs`, and the format of the vectors."""

    model: str
    """A name or alias from /v1/models."""
    input_type: str | None = None
    """The purpose of the vectors: search_document, search_query, classification, clustering or image. Selects the
    prompt that the model puts before texts. Required for models that have prompts."""
    texts: Annotated[list[str], Meta(min_length=1, max_length=MAX_ROWS)] | None = None
    images: Annotated[list[str], Meta(min_length=1, max_length=MAX_ROWS)] | None = None
    inputs: Annotated[list[EmbedInput], Meta(min_length=1, max_length=MAX_ROWS)] | None = None
    embedding_types: Annotated[list[EmbeddingType], Meta(min_length=1)] | None = None
    """The number types of the vectors. Default: float."""
    output_dimension: Annotated[int, Meta(ge=0)] | None = None
    """Truncate vectors to this many dimensions, which the model must support, and normalize them again. 0 for all."""
    truncate: Truncation | None = None
    """Which end of a text over the model's limit to cut off. Default: END. With NONE, such a text is an error."""
    max_tokens: Annotated[int, Meta(ge=8)] | None = None
    """A limit lower than the model's."""
    priority: int | None = None
    """Accepted but ignored: scheduling is fair."""
    refused: ClassVar[Mapping[str, Refused]] = NORMALIZED | {
        "dimensions": Refused("use output_dimension instead"),
        "truncate_prompt_tokens": Refused("use max_tokens instead"),
    }


class V1EmbedRequest(Struct, forbid_unknown_fields=True):
    """The inputs to embed, in exactly one of `texts` and `images`, and the format of the vectors."""

    model: str | None = None
    """A name or alias from /v1/models. Default: the default embedding model."""
    input_type: str | None = None
    texts: Annotated[list[str], Meta(min_length=1, max_length=MAX_ROWS)] | None = None
    images: Annotated[list[str], Meta(min_length=1, max_length=MAX_ROWS)] | None = None
    embedding_types: Annotated[list[EmbeddingType], Meta(min_length=1)] | None = None
    """The number types of the vectors. Without it, the response is one list of float vectors."""
    truncate: Truncation | None = None
    refused: ClassVar[Mapping[str, Refused]] = NORMALIZED | {
        name: Refused("supported by POST /v2/embed only") for name in ("inputs", "max_tokens", "output_dimension")
    }


class BilledUnits(Struct, omit_defaults=True):
    """The usage of a request."""

    input_tokens: int = 0
    image_tokens: int = 0
    search_units: int = 0


class ApiVersion(Struct):
    """The version of the API."""

    version: Literal["1", "2"]


class TokenCount(Struct):
    """The tokens of a request."""

    input_tokens: int


class CohereMeta(Struct, omit_defaults=True):
    """The API version and the usage."""

    api_version: ApiVersion
    billed_units: BilledUnits
    tokens: TokenCount | UnsetType = UNSET
    """Of all texts and images. Present in responses with vectors."""


class EmbedResponse(Struct, tag_field="response_type", tag="embeddings_by_type"):
    """The vectors, as one list for each requested type."""

    id: str
    embeddings: dict[EmbeddingType, list[Raw]]
    texts: list[str]
    meta: CohereMeta


class FloatsResponse(Struct, tag_field="response_type", tag="embeddings_floats"):
    """The vectors as one list of floats: the response of /v1/embed without `embedding_types`."""

    id: str
    embeddings: list[Raw]
    texts: list[str]
    meta: CohereMeta


class V2RerankRequest(RerankInput):
    """A query, and the documents to rank by their relevance to it."""

    model: str | None = None
    """A name or alias from /v1/models. Default, as in vLLM's API: the default rerank model."""
    top_n: Annotated[int, Meta(ge=0)] | None = None
    """How many results to return, best first. Default, and for 0: all."""
    return_documents: bool | None = None
    """Whether results include their document, for LiteLLM. Default: false."""


class V2RerankResponse(Struct):
    """The results by descending relevance."""

    id: str
    results: list[Result]
    meta: CohereMeta
    model: str
    """For clients of vLLM, as usage."""
    usage: RerankUsage


COHERE = ErrorFormat(CohereError, lambda failure: CohereError(failure.request_id, failure.message))


async def create_embeddings(request: Request) -> Response:
    """Answer POST /v2/embed."""
    body = await read(request, EmbedRequest)
    model = find_model(request, body.model, DENSE)
    if body.input_type is None and model.text is not None and (model.text.prompts or model.text.variants):
        raise InvalidRequest(
            f"input_type is required for model {model.name!r}, which has prompts, such as search_query or"
            " search_document",
            param="input_type",
        )
    size = encodings.size(model, body.output_dimension or None, "output_dimension")
    return await _embed(request, model, body, size, "2")


async def create_v1_embeddings(request: Request) -> Response:
    """Answer POST /v1/embed."""
    body = await read(request, V1EmbedRequest)
    model = find_model(request, body.model, DENSE)
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

    def build() -> EmbedResponse | FloatsResponse:
        floats = vectors.normalize(embedded.vectors[:, :size])
        rows = {kind: encodings.column(floats, kind) for kind in kinds}
        meta = _meta(BilledUnits(input_tokens=embedded.text_tokens, image_tokens=embedded.image_tokens), version)
        meta.tokens = TokenCount(embedded.text_tokens + embedded.image_tokens)
        request_id, texts = request.state["record"].request_id, body.texts or []
        if version == "1" and body.embedding_types is None:
            return FloatsResponse(request_id, rows["float"], texts, meta)
        return EmbedResponse(request_id, rows, texts, meta)

    return await large_json_response(request, build, embedded.vectors.size * len(kinds))


def _items(body: EmbedRequest | V1EmbedRequest) -> list[Item]:
    inputs = body.inputs if isinstance(body, EmbedRequest) else None
    choices = {"texts": body.texts, "images": body.images, "inputs": inputs}
    sent = [name for name, choice in choices.items() if choice is not None]
    if len(sent) != 1:
        raise InvalidRequest(
            f"send exactly one of texts, images and inputs, not {' and '.join(sent) or 'none'}",
            param=sent[0] if sent else "texts",
        )
    if body.texts is not None:
        return [Item(f"texts[{i}]", text) for i, text in enumerate(body.texts)]
    if body.images is not None:
        return [Item(f"images[{i}]", image=image, image_place=f"images[{i}]") for i, image in enumerate(body.images)]
    return [
        Item(f"inputs[{i}]", content=read_parts(item.content, f"inputs[{i}].content"))
        for i, item in enumerate(inputs or [])
    ]


async def create_ranking(request: Request) -> Response:
    """Answer POST /v2/rerank."""
    body = await read(request, V2RerankRequest)
    model = find_scorer(request, body.model)
    results, tokens = await rank_documents(
        request,
        model,
        body,
        top_n=body.top_n or None,
        with_documents=body.return_documents is True,
    )
    response = V2RerankResponse(
        id=request.state["record"].request_id,
        results=results,
        meta=_meta(BilledUnits(search_units=1)),
        model=model.name,
        usage=RerankUsage.of(tokens),
    )
    return await large_json_response(request, lambda: response)


def _meta(billed: BilledUnits, version: Literal["1", "2"] = "2") -> CohereMeta:
    return CohereMeta(ApiVersion(version), billed)


OPERATIONS = (
    Operation(
        "post",
        "/v1/embed",
        "cohereV1Embed",
        "Embed texts and images (Cohere v1)",
        create_v1_embeddings,
        EmbedResponse | FloatsResponse,
        V1EmbedRequest,
        {"texts": ["a shell"], "input_type": "search_document"},
    ),
    Operation(
        "post",
        "/v2/embed",
        "cohereEmbed",
        "Embed texts and images (Cohere v2)",
        create_embeddings,
        EmbedResponse,
        EmbedRequest,
        {"model": "all-minilm-l6-v2", "input_type": "search_document", "texts": ["a shell"]},
    ),
    Operation(
        "post",
        "/v2/rerank",
        "cohereRerank",
        "Rank documents (Cohere v2)",
        create_ranking,
        V2RerankResponse,
        V2RerankRequest,
        {"model": "minilm-late-interaction", "query": QUERY, "documents": DOCUMENTS},
    ),
)
