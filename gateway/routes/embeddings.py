"""POST /v1/embeddings, for clients of OpenAI, Jina, Voyage and others: texts, images, and pairs of both."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, cast

from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from starlette.responses import Response

from gateway import vectors
from gateway.catalog import Model
from gateway.errors import InvalidRequest
from gateway.routes import encodings
from gateway.routes.body import read, resolve_aliases
from gateway.routes.calls import embed_items, embed_parts, find_model_and_purpose
from gateway.routes.decoding import Refused
from gateway.routes.encodings import EmbeddingType
from gateway.routes.fields import TRUNCATIONS, Instruction, PromptTokens, Side, Truncation, resolve_truncation
from gateway.routes.http import Request, large_json_response
from gateway.routes.late_chunking import divided, joined
from gateway.routes.operation import Operation
from gateway.service.embed import DENSE, Embeddings, Item
from gateway.service.text_batches import MAX_ROWS
from gateway.service.tokens import MAX_TOKENS
from gateway.text.tokenizer import Truncate

TokenIds = list[int]
ALIASES = {
    "output_dimension": "dimensions",
    "output_dtype": "embedding_type",
    "encoding_type": "embedding_type",
    "normalize": "normalized",
    "truncation": "truncate",
    "instruct": "instruction",
}
IMAGE = re.compile(r"\s*data:image/", re.IGNORECASE)
"""The beginning of an image sent as a string, as some of Jina's clients do. For models that take texts and images."""
BEGINNING = 256
"""How many characters of a string to match with IMAGE: matching millions of spaces takes long."""


class InputItem(Struct, forbid_unknown_fields=True):
    """One input as an object. A text and an image together give one vector. An empty string counts as absent."""

    text: str = ""
    image: str = ""
    """A data: URI, base64, or an http(s) URL if the server fetches images. PNG, JPEG, WebP, GIF or BMP."""
    url: str = ""
    """The URL of an image, for older clients of Jina."""
    bytes: str = ""
    """An image in base64, for older clients of Jina."""
    refused: ClassVar[Mapping[str, Refused]] = {
        kind: Refused("only text and images are supported") for kind in ("audio", "pdf", "video")
    }


class EmbeddingRequest(Struct, forbid_unknown_fields=True):
    """The inputs to embed, and the format of the vectors."""

    input: str | InputItem | list[str | int | TokenIds | InputItem]
    """A text, an object, token ids, or a list of texts, objects and lists of token ids."""
    model: str | None = None
    """A name or alias from /v1/models. Default: the default embedding model."""
    normalized: bool | None = None
    """Whether to scale each vector to length 1. Default: true."""
    encoding_format: Literal["float", "base64"] | None = None
    """How to write floats: as numbers, or as base64 of little-endian float32."""
    embedding_type: EmbeddingType | Annotated[list[EmbeddingType], Meta(min_length=1)] | None = None
    """The number type of the vectors. For a list of types, `embedding` is an object with one vector for each."""
    dimensions: Annotated[int, Meta(ge=0)] | None = None
    """Truncate vectors to this many dimensions, which the model must support, and normalize them again. 0 for all."""
    truncate: bool | Truncation | None = None
    """Whether to truncate inputs over the model's limit or, as in NIM's API, at which end. Otherwise they are an
    error."""
    output_dimension: Annotated[int, Meta(ge=0)] | None = None
    """Voyage's alias of dimensions."""
    output_dtype: EmbeddingType | None = None
    """Voyage's alias of embedding_type."""
    encoding_type: EmbeddingType | Annotated[list[EmbeddingType], Meta(min_length=1)] | None = None
    """LlamaIndex's alias of embedding_type."""
    normalize: bool | None = None
    """TEI's and vLLM's alias of normalized."""
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
    user: str | None = None
    """Accepted but ignored, for clients of OpenAI."""
    refused: ClassVar[Mapping[str, Refused]] = {
        "add_special_tokens": Refused("special tokens are always added", (True,)),
        "chat_template": Refused("chat templates are not supported; send input"),
        "embedding_types": Refused("use embedding_type instead", ("float", ["float"])),
        "embed_dtype": Refused("floats are float32; use embedding_type for other types", ("float32",)),
        "endianness": Refused("base64 holds little-endian floats", ("little", "native")),
        "max_tokens": Refused("use truncate_prompt_tokens instead"),
        "messages": Refused("conversations are not supported; send input"),
        "prompt": Refused("not supported; select one of the model's prompts by prompt_name, or send instruction"),
        "return_multivector": Refused("not supported: the exported graph pools into one vector"),
        "task_type": Refused("use task instead"),
        "truncation_direction": Refused("use truncation_side instead", ("right", "Right")),
        "use_activation": Refused("use normalized instead", (True,)),
    }


class ChunkSpan(Struct):
    """Where a chunk is in its text, in characters (Unicode code points)."""

    start: int
    end: int


class Embedding(Struct):
    """One vector, in the requested format."""

    object: Literal["embedding"]
    index: int
    embedding: Annotated[
        Raw,
        Meta(
            extra_json_schema={
                "anyOf": [
                    {"type": "array", "items": {"type": "number"}},
                    {"type": "string", "description": "base64 of little-endian float32"},
                    {"type": "object", "description": "one vector for each requested embedding_type"},
                ]
            }
        ),
    ]
    chunk: ChunkSpan | UnsetType = UNSET
    """Present with late_chunking of one text."""


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


class EmbeddingResponse(Struct):
    """The vectors, in the order of the inputs."""

    id: str
    """The id of the request, for clients of Mistral."""
    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


async def create(request: Request) -> Response:
    """Answer POST /v1/embeddings."""
    return await _answer(request, await read(request, EmbeddingRequest))


async def create_for_deployment(request: Request) -> Response:
    """Answer POST /openai/deployments/{model}/embeddings of Azure's clients. The path names the model."""
    body = await read(request, EmbeddingRequest)
    body.model = request.path_params["model"]
    return await _answer(request, body)


async def _answer(request: Request, body: EmbeddingRequest) -> Response:
    resolve_aliases(body, ALIASES)
    body.dimensions = body.dimensions or None
    model, suffix = find_model_and_purpose(request, body.model, DENSE)
    _check_output(body, model)
    items = read_inputs(body.input, body.modality or ("any" if model.image is not None else "text"))
    place, purpose = _purpose(body, suffix)
    truncate, max_tokens = _limit(body)
    _check_chunking(body, truncate)
    if body.late_chunking:
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
        averages=body.enable_chunked_processing is True,
    )
    numbers = embedded.vectors.size * len(_kinds(body))
    return await large_json_response(
        request, lambda: _response(request.state["record"].request_id, body, model, embedded), numbers
    )


async def _answer_late(
    request: Request, body: EmbeddingRequest, model: Model, items: Sequence[Item], purpose: str | None, place: str
) -> Response:
    """Answer a request for late chunking."""
    is_list = isinstance(body.input, list)
    if is_list and body.chunk_spans is not None:
        raise InvalidRequest("chunk_spans needs one text as input, not a list", param="chunk_spans")
    document = joined(items) if is_list else divided(items[0], body.chunk_spans)
    embedded = await embed_parts(
        request,
        model,
        document.text,
        document.parts,
        part_places=document.places,
        purpose=purpose,
        place=place,
        in_windows=body.enable_chunked_processing is True,
        instruction=body.instruction,
    )

    def build() -> EmbeddingResponse:
        response = _response(request.state["record"].request_id, body, model, embedded)
        if not is_list:
            for item, part in zip(response.data, document.parts, strict=True):
                item.chunk = ChunkSpan(*part)
        return response

    return await large_json_response(request, build, embedded.vectors.size * len(_kinds(body)))


def _check_chunking(body: EmbeddingRequest, truncate: Truncate) -> None:
    """Reject fields that contradict chunks, or need them."""
    for name in ("enable_chunked_processing", "late_chunking"):
        if getattr(body, name) and truncate != "none":
            raise InvalidRequest(
                f"{name} computes all of a text; it contradicts truncate and truncate_prompt_tokens", param=name
            )
    if body.chunk_spans is not None and not body.late_chunking:
        raise InvalidRequest("chunk_spans needs late_chunking", param="chunk_spans")


def _response(request_id: str, body: EmbeddingRequest, model: Model, embedded: Embeddings) -> EmbeddingResponse:
    tokens = embedded.text_tokens + embedded.image_tokens
    return EmbeddingResponse(
        id=request_id,
        object="list",
        model=model.name,
        data=[
            Embedding(object="embedding", index=i, embedding=Raw(embedding))
            for i, embedding in enumerate(write(embedded.vectors, body))
        ],
        usage=EmbeddingUsage(
            prompt_tokens=tokens,
            total_tokens=tokens,
            prompt_tokens_details=EmbeddingTokensDetails(embedded.text_tokens, embedded.image_tokens),
        ),
    )


def _limit(body: EmbeddingRequest) -> tuple[Truncate, int | None]:
    """How to truncate inputs over the limit, and a limit lower than the model's."""
    truncate: Truncate = "end" if body.truncate else "none"
    if isinstance(body.truncate, str):
        truncate = TRUNCATIONS[body.truncate]
    is_forbidden = body.truncate is False or body.truncate == "NONE"
    return resolve_truncation(truncate, body.truncate_prompt_tokens, body.truncation_side, is_forbidden=is_forbidden)


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
    if isinstance(item, str) and (strings == "image" or (strings == "any" and IMAGE.match(item, 0, BEGINNING))):
        return Item(place, image=item.strip(), image_place=place)
    if not isinstance(item, InputItem):
        return Item(place, item)
    images = [image.strip() for image in (item.image, item.url, item.bytes) if image]
    if not item.text and not images:
        raise InvalidRequest(f"{place} has neither text nor image", param=place)
    if len(images) > 1:
        raise InvalidRequest(f"{place} has more than one of image, url and bytes", param=place)
    return Item(place, item.text or None, images[0] if images else None)


def _check_output(body: EmbeddingRequest, model: Model) -> None:
    """Reject formats that the model or the other fields rule out, before anything is computed."""
    kinds = _kinds(body)
    encodings.check(kinds, encodings.size(model, body.dimensions))
    if body.normalized is False and {*kinds} & {"int8", "uint8"}:
        raise InvalidRequest("int8 and uint8 need normalized vectors; normalized must not be false", param="normalized")


def _kinds(body: EmbeddingRequest) -> list[EmbeddingType]:
    kinds = body.embedding_type
    return list(dict.fromkeys(kinds)) if isinstance(kinds, list) else [kinds or "float"]


def write(raw: vectors.Floats, body: EmbeddingRequest) -> list[bytes]:
    """The JSON of each row's `embedding`.

    Args:
        raw: [n, d], the model's output.
        body: has the fields for dimensions, normalization and number types.
    """
    size = body.dimensions or raw.shape[1]
    normalizes = body.normalized is not False or size < raw.shape[1]
    floats = vectors.normalize(raw[:, :size]) if normalizes else raw
    kinds = _kinds(body)
    columns = {kind: encodings.column(floats, _written(kind, body.encoding_format)) for kind in kinds}
    if not isinstance(body.embedding_type, list):
        return columns[kinds[0]]
    return [
        b"{" + b",".join(b'"%s":%s' % (kind.encode(), column[i]) for kind, column in columns.items()) + b"}"
        for i in range(len(floats))
    ]


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
)
OPERATIONS = (
    EMBED,
    EMBED.also("/embeddings", "WithoutVersion"),
    EMBED.also("/openai/deployments/{model}/embeddings", "OfDeployment", endpoint=create_for_deployment),
    EMBED.also("/openai/v1/embeddings", "OfAzure"),
)
