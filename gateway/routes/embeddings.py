"""POST /v1/embeddings, for clients of OpenAI, Jina, Voyage and others: texts, images, and pairs of both."""

import time
from collections.abc import Mapping, Sequence, Set
from typing import Annotated, ClassVar, Literal, cast, get_args

from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from starlette.responses import Response

from gateway import vectors
from gateway.catalog import VECTORS, Model, Offer
from gateway.errors import InvalidRequest
from gateway.images.processors import Area
from gateway.routes import encodings
from gateway.routes.body import read
from gateway.routes.calls import check_offers, embed_documents, embed_items, find_model_and_purpose
from gateway.routes.content import (
    MAX_MESSAGES,
    TEMPLATES,
    InputItem,
    Message,
    PixelBounds,
    check_source,
    is_image,
    read_item,
    read_messages,
    read_pixels,
)
from gateway.routes.decoding import Refused
from gateway.routes.encodings import NUMBERS, EmbeddingType
from gateway.routes.fields import IgnoredFields, Instruction, PromptTokens, Side, Truncation, read_truncation
from gateway.routes.http import OCTETS, Request, large_json_response
from gateway.routes.late_chunking import divided, joined
from gateway.routes.operation import Operation
from gateway.routes.packing import (
    EncodingFormat,
    Endianness,
    FloatType,
    Metadata,
    check_count,
    packed_response,
    packing_of,
    wants_bytes,
)
from gateway.service.contents import pictures
from gateway.service.embed import DENSE, Embeddings, Item
from gateway.service.origins import PatchGrid
from gateway.service.text_batches import MAX_ROWS
from gateway.service.tokens import MAX_TOKENS
from gateway.text.tokenizer import Truncate

TokenIds = list[int]
Form = EmbeddingType | Literal["sparse", "multi_vector"]
"""A number type of a dense vector, or another kind of vectors."""
Forms = Form | Annotated[list[Form], Meta(min_length=1)]
NUMBER_TYPES: Mapping[str, EmbeddingType] = {name: name for name in get_args(EmbeddingType)}


class EmbeddingRequest(IgnoredFields, forbid_unknown_fields=True, kw_only=True):
    """The inputs to embed, and the format of the vectors."""

    input: str | InputItem | list[str | int | TokenIds | InputItem] | None = None
    """A text, an object, token ids, or a list of texts, objects and lists of token ids. Required without messages."""
    messages: Annotated[list[Message], Meta(max_length=MAX_MESSAGES)] | None = None
    """Instead of input, as in vLLM's API: one user message, whose texts and images become one vector. A system message
    before it is the instruction."""
    model: str | None = None
    """A name or alias from /v1/models. Default: the default embedding model."""
    normalized: bool | None = None
    """Whether to scale each vector to length 1. Default: true."""
    encoding_format: EncodingFormat | None = None
    """How to write floats: as numbers, as base64, or, as in vLLM's API, as a response of nothing else, which the header
    `metadata` describes (`bytes`) or not (`bytes_only`). Default: float."""
    embed_dtype: FloatType | None = None
    """The number type of floats in base64 and bytes, as in vLLM's API. Default: float32."""
    endianness: Endianness | None = None
    """Their byte order. native is little. Default: native."""
    embedding_type: Forms | None = None
    """The number type of the vectors, or `sparse` or `multi_vector`. For a list of types, `embedding` is an object with
    one of each."""
    multi_vector_type: EmbeddingType | None = None
    """The number type of the vectors of `multi_vector`, one for each token."""
    return_multivector: bool | None = None
    """Whether to return a vector for each token, as in Jina's API: items have `embeddings` instead of `embedding`."""
    return_tokens: bool | None = None
    """Whether to also return which token, or which patch of an image, each vector of `multi_vector` is of."""
    dimensions: Annotated[int, Meta(ge=0)] | None = None
    """Truncate vectors to this many dimensions, which the model must support, and normalize them again. 0 for all."""
    truncate: bool | Truncation | None = None
    """Whether to truncate inputs over the model's limit or, as in NIM's API, at which end. Otherwise they are an
    error."""
    output_dimension: Annotated[int, Meta(ge=0)] | None = None
    """Voyage's alias of dimensions."""
    output_dtype: Form | None = None
    """Voyage's alias of embedding_type."""
    encoding_type: Forms | None = None
    """LlamaIndex's alias of embedding_type."""
    normalize: bool | None = None
    """TEI's alias of normalized."""
    use_activation: bool | None = None
    """vLLM's alias of normalized."""
    truncation: bool | None = None
    """Voyage's alias of truncate."""
    truncate_prompt_tokens: PromptTokens | None = None
    """Truncate inputs to this many tokens or the model's limit, whichever is lower, as in vLLM's API. -1 for the
    model's limit."""
    truncation_side: Side | None = None
    """Which end of inputs over the limit to cut off. Default: right."""
    enable_chunked_processing: bool | None = None
    """Whether to split texts over the model's limit into chunks, as vLLM's servers do: their vector is the mean of the
    chunks' vectors, weighted by tokens. With late_chunking, the document is computed in windows that overlap."""
    late_chunking: bool | None = None
    """Whether to compute all of the document in one pass, and one vector for each of its chunks, as in Jina's API. The
    chunks are the texts of a list in their order, or chunk_spans of one text, or its sentences."""
    chunk_spans: Annotated[list[tuple[int, int]], Meta(min_length=1, max_length=MAX_ROWS)] | None = None
    """For late_chunking of one text: start and end of each chunk, in characters (Unicode code points)."""
    task: str | None = None
    """The purpose of the texts in Jina's terms: retrieval.query, retrieval.passage, text-matching, classification,
    separation. Selects the prompt that the model puts before them. The name of a prompt works as well."""
    input_type: str | None = None
    """The purpose in the terms of Cohere, Voyage and NIM: search_query, search_document, query, passage, ..."""
    prompt_name: str | None = None
    """The name of one of the model's prompts, as in TEI's API."""
    instruction: Instruction | None = None
    """Tells the model what queries are for. Replaces the instruction in the model's query prompt; only for models that
    have one there."""
    instruct: Instruction | None = None
    """An alias of instruction."""
    modality: Literal["text", "image"] | None = None
    """What strings are, as in Infinity's API. By default, strings that begin with data:image/ are images if the model
    takes images; all others are texts."""
    min_pixels: Area | None = None
    """Enlarge images to this many pixels, within the limits of the model. For models that take images of any size."""
    max_pixels: Area | None = None
    """Shrink images to this many pixels, within the limits of the model."""
    mm_processor_kwargs: PixelBounds | None = None
    """vLLM's place for min_pixels and max_pixels."""
    add_special_tokens: bool | None = None
    """Whether to put the tokenizer's special tokens around texts, as in vLLM's API. Default: true. Models with a
    template need theirs."""
    aliases: ClassVar[Mapping[str, str]] = {
        "output_dimension": "dimensions",
        "output_dtype": "embedding_type",
        "encoding_type": "embedding_type",
        "normalize": "normalized",
        "use_activation": "normalized",
        "truncation": "truncate",
        "instruct": "instruction",
    }
    refused: ClassVar[Mapping[str, Refused]] = {
        **TEMPLATES,
        "embedding_types": Refused("use embedding_type instead", ("float", ["float"])),
        "max_tokens": Refused("use truncate_prompt_tokens instead"),
        "prompt": Refused("not supported; select one of the model's prompts by prompt_name, or send instruction"),
        "task_type": Refused("use task instead"),
        "truncation_direction": Refused("use truncation_side instead", ("right", "Right")),
    }


Written = Raw | list[Raw] | dict[Form, Raw | list[Raw]]
"""What is written of an input: a vector, or one for each token, or both by type."""


class ChunkSpan(Struct):
    """Where a chunk is in its text, in characters (Unicode code points)."""

    start: int
    end: int


BASE64 = {"type": "string", "description": "base64 of floats"}
TOKEN_VECTORS = {"type": "array", "items": {"anyOf": [NUMBERS, BASE64]}, "description": "a vector for each token"}
SPARSE = {
    "type": "object",
    "properties": {"indices": {"type": "array", "items": {"type": "integer"}}, "values": NUMBERS},
    "description": "ids of the vocabulary, ascending, and their weights",
}
BY_TYPE = {"type": "object", "description": "one of each requested embedding_type"}


class Tokens(Struct):
    """What the vectors of tokens are of, in their order."""

    ids: list[int | None]
    """The token id of each vector. Null for tokens by which the model expands a query."""
    images: list[list[PatchGrid]]
    """The vectors of each image's patches: one grid, or one for each tile and then one for the whole image."""


class Embedding(Struct):
    """The embedding of one input, in the requested format."""

    object: Literal["embedding"]
    index: int
    embedding: (
        Annotated[Written, Meta(extra_json_schema={"anyOf": [NUMBERS, BASE64, SPARSE, TOKEN_VECTORS, BY_TYPE]})]
        | UnsetType
    ) = UNSET
    embeddings: Annotated[Written, Meta(extra_json_schema=TOKEN_VECTORS)] | UnsetType = UNSET
    """Instead of `embedding`, with return_multivector."""
    chunk: ChunkSpan | UnsetType = UNSET
    """Present with late_chunking of one text."""
    tokens: Tokens | UnsetType = UNSET
    """Present with return_tokens."""


class EmbeddingTokensDetails(Struct):
    """The number of tokens by type of input."""

    text_tokens: int
    """Includes special tokens."""
    image_tokens: int
    """The patches that the model divides images into."""


class EmbeddingUsage(Struct):
    """The number of tokens processed."""

    prompt_tokens: int
    total_tokens: int
    prompt_tokens_details: EmbeddingTokensDetails
    token_vectors: int | UnsetType = UNSET
    """The vectors of tokens in the response, if there may be any."""
    completion_tokens: int = 0
    """Always 0: nothing is generated."""


class EmbeddingResponse(Struct):
    """The vectors, in the order of the inputs."""

    id: str
    """The id of the request, for clients of Mistral."""
    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage
    created: int
    """Unix time of the response, for clients of vLLM."""


async def create(request: Request) -> Response:
    """Answer POST /v1/embeddings."""
    return await embed(request, await read(request, EmbeddingRequest))


async def create_for_deployment(request: Request) -> Response:
    """Answer POST /openai/deployments/{model}/embeddings of Azure's clients. The path names the model."""
    body = await read(request, EmbeddingRequest)
    body.model = request.path_params["model"]
    return await embed(request, body)


async def embed(request: Request, body: EmbeddingRequest) -> Response:
    """Answer a request whose body has been read."""
    check_source(request, body.input, body.messages)
    body.dimensions = body.dimensions or None
    kinds = {_kind(form) for form in _forms(body)}
    model, suffix = find_model_and_purpose(request, body.model, VECTORS, kinds)
    check_offers(request, model, kinds, "return_multivector" if body.return_multivector else "embedding_type")
    _check_output(body, model)
    items = _read_items(body, model)
    if wants_bytes(body):
        _check_bytes(body, len(items))
    place, purpose = _purpose(body, suffix)
    truncate, max_tokens = read_truncation(body.truncate, body.truncate_prompt_tokens, body.truncation_side)
    _check_chunking(body, truncate, kinds)
    if body.late_chunking:  # of texts only
        return await _answer_late(request, body, model, items, purpose, place)
    embedded = await embed_items(
        request,
        model,
        items,
        purpose=purpose,
        place=place,
        truncate=truncate,
        max_tokens=max_tokens,
        instruction=body.instruction,
        kinds=kinds,
        token_dimensions=body.dimensions,
        averages=body.enable_chunked_processing is True,
        special_tokens=body.add_special_tokens is not False,
        pixels=read_pixels(body.min_pixels, body.max_pixels, body.mm_processor_kwargs),
    )
    if wants_bytes(body):
        return await _answer_packed(request, body, model, embedded)
    numbers = embedded.numbers * len(_forms(body)) + sum(map(len, embedded.tokens))
    return await large_json_response(
        request, lambda: _response(request.state["record"].request_id, body, model, embedded), numbers
    )


async def _answer_packed(request: Request, body: EmbeddingRequest, model: Model, embedded: Embeddings) -> Response:
    """Answer with bytes."""
    request_id, usage = request.state["record"].request_id, _usage(body, embedded)
    metadata = Metadata(request_id, int(time.time()), model.name, [], usage)
    return await packed_response(
        request, body, lambda: [*_finished(embedded.vectors, body, model, "dense")], metadata, embedded.numbers
    )


def _read_items(body: EmbeddingRequest, model: Model) -> list[Item]:
    """The items of `input` or of `messages`, whose instruction becomes that of the request.

    Raises:
        InvalidRequest: one of them is wrong.
    """
    if body.input is not None:
        return read_inputs(body.input, body.modality or ("any" if model.accepts_images else "text"))
    content, instruction = read_messages(body.messages or [])
    if instruction is not None and body.instruction is not None:
        raise InvalidRequest("instruction and a system message have the same meaning", param="instruction")
    body.instruction = body.instruction or instruction
    return [Item("messages", content=content)]


async def _answer_late(
    request: Request, body: EmbeddingRequest, model: Model, items: Sequence[Item], purpose: str | None, place: str
) -> Response:
    """Answer a request for late chunking."""
    is_list = isinstance(body.input, list)
    if is_list and body.chunk_spans is not None:
        raise InvalidRequest("chunk_spans needs one text as input, not a list", param="chunk_spans")
    document = joined(items) if is_list else divided(items[0], body.chunk_spans)
    (found,) = await embed_documents(
        request,
        model,
        [document],
        places=["input"],
        purpose=purpose,
        place=place,
        in_windows=body.enable_chunked_processing is True,
        instruction=body.instruction,
    )

    def build() -> EmbeddingResponse:
        response = _response(request.state["record"].request_id, body, model, found.embedded)
        if not is_list:
            for item, part in zip(response.data, found.parts, strict=True):
                item.chunk = ChunkSpan(*part)
        return response

    return await large_json_response(request, build, found.embedded.numbers * len(_forms(body)))


def _check_chunking(body: EmbeddingRequest, truncate: Truncate, kinds: Set[Offer]) -> None:
    """Reject fields that contradict chunks, or need them."""
    for name in ("enable_chunked_processing", "late_chunking"):
        if getattr(body, name) and truncate != "none":
            raise InvalidRequest(
                f"{name} computes all of a text; it contradicts truncate and truncate_prompt_tokens", param=name
            )
        if getattr(body, name) and kinds != DENSE:
            raise InvalidRequest(f"{name} supports dense vectors only, not sparse and multi_vector", param=name)
        if getattr(body, name) and body.add_special_tokens is False:
            raise InvalidRequest(f"{name} needs special tokens; add_special_tokens must not be false", param=name)
    if body.chunk_spans is not None and not body.late_chunking:
        raise InvalidRequest("chunk_spans needs late_chunking", param="chunk_spans")


def _check_bytes(body: EmbeddingRequest, inputs: int) -> None:
    """Reject what a response of bytes cannot hold."""
    if isinstance(body.embedding_type, list) or _forms(body) != ["float"]:
        raise InvalidRequest("encoding_format: bytes hold float vectors only", param="encoding_format")
    if body.late_chunking:
        raise InvalidRequest("encoding_format: bytes do not tell where chunks are", param="encoding_format")
    check_count(body, inputs)


def _response(request_id: str, body: EmbeddingRequest, model: Model, embedded: Embeddings) -> EmbeddingResponse:
    data = [
        Embedding("embedding", i, *((UNSET, written) if body.return_multivector else (written,)))
        for i, written in enumerate(write(embedded, body, model))
    ]
    if body.return_tokens:
        for item, origin in zip(data, embedded.origins, strict=True):
            item.tokens = Tokens(origin.token_ids(), origin.grids())
    return EmbeddingResponse(
        id=request_id,
        object="list",
        model=model.name,
        data=data,
        usage=_usage(body, embedded),
        created=int(time.time()),
    )


def _usage(body: EmbeddingRequest, embedded: Embeddings) -> EmbeddingUsage:
    tokens = embedded.text_tokens + embedded.image_tokens
    return EmbeddingUsage(
        prompt_tokens=tokens,
        total_tokens=tokens,
        prompt_tokens_details=EmbeddingTokensDetails(embedded.text_tokens, embedded.image_tokens),
        token_vectors=sum(map(len, embedded.tokens)) if "multi_vector" in _forms(body) else UNSET,
    )


def _purpose(body: EmbeddingRequest, suffix: str | None) -> tuple[str, str | None]:
    """The field that holds the purpose of the texts, and the purpose."""
    sent = {
        place: purpose
        for place, purpose in (
            ("task", body.task),
            ("input_type", body.input_type),
            ("prompt_name", body.prompt_name),
            ("model", suffix),
        )
        if purpose is not None
    }
    if len(sent) > 1:
        raise InvalidRequest(
            f"{' and '.join(sent)} have the same meaning; send only one of them", param=next(iter(sent))
        )
    return next(iter(sent.items()), ("task", None))


def read_inputs(
    inputs: str | InputItem | list[str | int | TokenIds | InputItem], strings: Literal["text", "image", "any"]
) -> list[Item]:
    """Convert every form of `input` to items.

    Args:
        inputs: one input, or a list of them.
        strings: what strings are; "any" to treat those that begin like an image as images.

    Raises:
        InvalidRequest: there are too many, an object is empty, or single token ids are mixed with other inputs.
    """
    if not isinstance(inputs, list):
        return [_item(inputs, "input", strings)]
    if 0 < len(inputs) <= MAX_TOKENS and {*map(type, inputs)} == {int}:
        return [Item("input[0]", cast(TokenIds, inputs))]
    if not 1 <= len(inputs) <= MAX_ROWS:
        raise InvalidRequest(f"input has {len(inputs)} items; it must have 1 to {MAX_ROWS}", param="input")
    return [_item(item, f"input[{i}]", strings) for i, item in enumerate(inputs)]


def _item(item: str | int | TokenIds | InputItem, place: str, strings: Literal["text", "image", "any"]) -> Item:
    if isinstance(item, int):
        raise InvalidRequest(f"{place} is a token id among other inputs; send token ids as lists", param=place)
    if isinstance(item, str) and (strings == "image" or (strings == "any" and is_image(item))):
        return Item(place, image=item.strip(), image_place=place)
    if not isinstance(item, InputItem):
        return Item(place, item)
    parts = read_item(item, place)
    if item.content is not None:
        return Item(place, content=parts)
    image = next(iter(pictures(parts)), None)
    return Item(place, item.text or None, image.image, image.place) if image is not None else Item(place, item.text)


def _check_output(body: EmbeddingRequest, model: Model) -> None:
    """Reject formats that the model or the other fields rule out, before anything is computed."""
    forms = _forms(body)
    if body.multi_vector_type is not None and (body.return_multivector or "multi_vector" not in forms):
        raise InvalidRequest(
            "multi_vector_type needs multi_vector as an embedding_type; with return_multivector, send embedding_type",
            param="multi_vector_type",
        )
    if body.return_tokens and "multi_vector" not in forms:
        raise InvalidRequest("return_tokens needs multi_vector as an embedding_type", param="return_tokens")
    if body.dimensions is not None and forms == ["sparse"]:
        raise InvalidRequest("dimensions: sparse vectors cannot be truncated", param="dimensions")
    types: dict[Offer, list[EmbeddingType]] = {
        "dense": [NUMBER_TYPES[form] for form in forms if form in NUMBER_TYPES],
        "multi_vector": [_token_type(body)] if "multi_vector" in forms else [],
    }
    for kind, wanted in types.items():
        if not wanted:
            continue
        place = "multi_vector_type" if body.multi_vector_type and kind == "multi_vector" else "embedding_type"
        encodings.check(wanted, encodings.size(model, body.dimensions, kind=kind), place)
        if body.normalized is False and {*wanted} & {"int8", "uint8"}:
            raise InvalidRequest(
                "int8 and uint8 need normalized vectors; normalized must not be false", param="normalized"
            )


def _forms(body: EmbeddingRequest) -> list[Form]:
    """What to write for each input."""
    if body.return_multivector:
        return ["multi_vector"]
    forms = body.embedding_type
    return list(dict.fromkeys(forms)) if isinstance(forms, list) else [forms or "float"]


def _kind(form: Form) -> Offer:
    return "dense" if form in NUMBER_TYPES else cast(Offer, form)


def _token_type(body: EmbeddingRequest) -> EmbeddingType:
    """The number type of token vectors.

    Raises:
        InvalidRequest: return_multivector is sent with another embedding_type than one number type.
    """
    if not body.return_multivector:
        return _written(body.multi_vector_type or "float", body.encoding_format)
    sent = body.embedding_type
    form, *more = sent if isinstance(sent, list) else [sent or "float"]
    if more or form not in NUMBER_TYPES:
        raise InvalidRequest("return_multivector needs one number type as embedding_type", param="embedding_type")
    return _written(NUMBER_TYPES[form], body.encoding_format)


def write(embedded: Embeddings, body: EmbeddingRequest, model: Model) -> Sequence[Written]:
    """Each item's `embedding`.

    Args:
        embedded: what the model computed.
        body: has the fields for dimensions, normalization and number types.
        model: the model, whose vectors may be longer than the body wants.
    """
    dense = _finished(embedded.vectors, body, model, "dense") if len(embedded.vectors) else embedded.vectors
    packing = packing_of(body)
    columns: dict[Form, Sequence[Raw | list[Raw]]] = {}
    for form in _forms(body):
        if form == "sparse":
            columns[form] = [encodings.sparse(vector) for vector in embedded.sparse]
        elif form == "multi_vector":
            kind = _token_type(body)
            finished = (_finished(raw, body, model, "multi_vector") for raw in embedded.tokens)
            columns[form] = [encodings.matrix(one, kind, packing) for one in finished]
        else:
            columns[form] = encodings.column(dense, _written(form, body.encoding_format), packing)
    if body.return_multivector or not isinstance(body.embedding_type, list):
        return next(iter(columns.values()))
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _finished(raw: vectors.Floats, body: EmbeddingRequest, model: Model, kind: Offer) -> vectors.Floats:
    """Vectors in the size and the length that the body wants."""
    size, width = body.dimensions, encodings.width(model, kind)
    normalizes = body.normalized is not False or (size or width) < width
    return vectors.normalize(raw[:, :size]) if normalizes else raw


def _written(kind: EmbeddingType, encoding_format: str | None) -> EmbeddingType:
    return "base64" if kind == "float" and encoding_format == "base64" else kind


EMBED = Operation(
    "post",
    "/v1/embeddings",
    "createEmbedding",
    "Embed texts and images",
    create,
    EmbeddingResponse,
    EmbeddingRequest,
    {"input": ["a shell", "a trumpet"]},
    also_gives=OCTETS,
)
OPERATIONS = (
    EMBED,
    EMBED.also("/embeddings", "WithoutVersion"),
    EMBED.also("/openai/deployments/{model}/embeddings", "OfDeployment", endpoint=create_for_deployment),
    EMBED.also("/openai/v1/embeddings", "OfAzure"),
)
