"""POST /v1/embeddings, as OpenAI's clients and Jina's call it: texts, images, and both in one."""

from typing import Annotated, Literal, cast

from msgspec import Meta, Raw, Struct
from starlette.responses import Response

from gateway import vectors
from gateway.catalog import EMBEDDING_ROLES, Model
from gateway.errors import InvalidRequest
from gateway.routes import encodings
from gateway.routes.encodings import EmbeddingType
from gateway.routes.http import (
    TRUNCATIONS,
    Instruction,
    Request,
    Truncation,
    answer_much,
    embed_items,
    find_model_for,
    read,
    rename,
)
from gateway.service.embed import Embeddings, Item
from gateway.service.rows import MAX_ROWS
from gateway.service.tokens import MAX_TOKENS
from gateway.tokenize import Truncate

TokenIds = list[int]
OTHER_NAMES = {
    "output_dimension": "dimensions",
    "output_dtype": "embedding_type",
    "truncation": "truncate",
    "instruct": "instruction",
}
IMAGE = "data:image/"
"""What no text begins with: some clients of Jina send images as strings."""


class InputItem(Struct, forbid_unknown_fields=True):
    """One input as an object. With text and image, both make one vector; an empty string counts as absent."""

    text: str = ""
    image: str = ""
    """A data: URI, base64, or an http(s) URL where the server fetches images. PNG, JPEG, WebP, GIF or BMP."""
    url: str = ""
    """An image by its URL, as Jina's older clients have it."""
    bytes: str = ""
    """An image in base64, as they have it."""


class EmbeddingRequest(Struct, forbid_unknown_fields=True):
    """What to embed and how to answer."""

    input: str | InputItem | list[str | int | TokenIds | InputItem]
    """A text, an object, token ids, or a list that mixes texts, objects and lists of token ids."""
    model: str | None = None
    """A name or alias from /v1/models; left out, the default embedding model answers."""
    normalized: bool | None = True
    """Whether to scale each vector to length 1."""
    encoding_format: Literal["float", "base64"] | None = None
    """How floats are written: numbers, or base64 of little-endian float32."""
    embedding_type: EmbeddingType | Annotated[list[EmbeddingType], Meta(min_length=1)] | None = None
    """What numbers to send. A list of types makes `embedding` an object with a vector for each."""
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    """Cut vectors to this size and normalise again; only sizes that the model was trained for."""
    truncate: bool | Truncation | None = None
    """Whether to cut inputs over the model's limit, or at which end, as NIM has it; otherwise they are an error."""
    output_dimension: Annotated[int, Meta(ge=1)] | None = None
    """Voyage's name of dimensions."""
    output_dtype: EmbeddingType | None = None
    """Voyage's name of embedding_type."""
    truncation: bool | None = None
    """Voyage's name of truncate."""
    task: str | None = None
    """What the texts are for, in Jina's words: retrieval.query, retrieval.passage, text-matching, classification,
    separation. The model's prompt for it goes in front of them. Also the name of one of its prompts."""
    input_type: str | None = None
    """The same in Cohere's, Voyage's and NIM's words: search_query, search_document, query, passage, ..."""
    prompt_name: str | None = None
    """The same in TEI's: the name of one of the model's prompts."""
    instruction: Instruction | None = None
    """What queries are for, in place of what the model's prompt for them says; only for models whose prompt has a place
    for it."""
    instruct: Instruction | None = None
    """Another name of instruction."""
    late_chunking: Literal[False] | None = None
    """Jina's vectors of each token in the light of all inputs: not to be had here."""
    user: str | None = None
    """Accepted for OpenAI's sake, not used."""


class Embedding(Struct):
    """One vector."""

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


class EmbeddingTokensDetails(Struct):
    """Tokens by what they are of."""

    text_tokens: int
    """Special tokens included."""
    image_tokens: int
    """Patches that the model divides its images into."""


class EmbeddingUsage(Struct):
    """Tokens computed."""

    prompt_tokens: int
    total_tokens: int
    prompt_tokens_details: EmbeddingTokensDetails


class EmbeddingResponse(Struct):
    """The vectors in the order of the inputs."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


async def create(request: Request) -> Response:
    """Answer POST /v1/embeddings."""
    body = await read(request, EmbeddingRequest)
    rename(body, OTHER_NAMES)
    model, suffix = find_model_for(request, body.model, EMBEDDING_ROLES)
    _check_output(body, model)
    items = read_inputs(body.input)
    place, purpose = _purpose(body, suffix)
    asked = body.truncate
    truncate: Truncate = TRUNCATIONS[asked] if isinstance(asked, str) else "end" if asked else "none"
    embedded = await embed_items(
        request, model, items, purpose=purpose, place=place, truncate=truncate, instruction=body.instruction
    )
    numbers = embedded.vectors.size * len(_kinds(body))
    return await answer_much(request, lambda: _response(body, model, embedded), numbers)


def _response(body: EmbeddingRequest, model: Model, embedded: Embeddings) -> EmbeddingResponse:
    tokens = embedded.text_tokens + embedded.image_tokens
    return EmbeddingResponse(
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


def _purpose(body: EmbeddingRequest, suffix: str | None) -> tuple[str, str | None]:
    """What texts are for, behind the field that says so."""
    given = {
        place: purpose
        for place, purpose in (
            ("task", body.task),
            ("input_type", body.input_type),
            ("prompt_name", body.prompt_name),
            ("model", suffix),
        )
        if purpose is not None
    }
    if len(given) > 1:
        raise InvalidRequest(f"{' and '.join(given)} say the same; send one of them", param=next(iter(given)))
    return next(iter(given.items()), ("task", None))


def read_inputs(given: str | InputItem | list[str | int | TokenIds | InputItem]) -> list[Item]:
    """Bring every way of writing inputs into one.

    Raises:
        InvalidRequest: there are too many, an object is empty, or single token ids stand among other inputs.
    """
    if not isinstance(given, list):
        return [_item(given, "input")]
    if 0 < len(given) <= MAX_TOKENS and {*map(type, given)} == {int}:
        return [Item("input[0]", cast(TokenIds, given))]
    if not 1 <= len(given) <= MAX_ROWS:
        raise InvalidRequest(f"input holds {len(given)} items; it must hold 1 to {MAX_ROWS}", param="input")
    return [_item(item, f"input[{i}]") for i, item in enumerate(given)]


def _item(item: str | int | TokenIds | InputItem, place: str) -> Item:
    if isinstance(item, int):
        raise InvalidRequest(
            f"{place} is a token id among other inputs; send each list of token ids as a list", param=place
        )
    if isinstance(item, str) and item.startswith(IMAGE):
        return Item(place, image=item, image_place=place)
    if not isinstance(item, InputItem):
        return Item(place, item)
    images = [image for image in (item.image, item.url, item.bytes) if image]
    if not item.text and not images:
        raise InvalidRequest(f"{place} holds neither text nor image", param=place)
    if len(images) > 1:
        raise InvalidRequest(f"{place} holds more than one of image, url and bytes", param=place)
    return Item(place, item.text or None, images[0] if images else None)


def _check_output(body: EmbeddingRequest, model: Model) -> None:
    """Refuse what cannot be answered before anything is computed."""
    kinds = _kinds(body)
    encodings.check(kinds, encodings.size(model, body.dimensions))
    if body.normalized is False and {*kinds} & {"int8", "uint8"}:
        raise InvalidRequest("int8 and uint8 quantise normalised vectors; leave out normalized", param="normalized")


def _kinds(body: EmbeddingRequest) -> list[EmbeddingType]:
    given = body.embedding_type
    return list(dict.fromkeys(given)) if isinstance(given, list) else [given or "float"]


def write(raw: vectors.Floats, body: EmbeddingRequest) -> list[bytes]:
    """The JSON of each row's `embedding`.

    Args:
        raw: [n, d] as the model gives them.
        body: says which numbers, and how they are written.
    """
    size = body.dimensions or raw.shape[1]
    unit = body.normalized is not False or size < raw.shape[1]
    floats = vectors.normalise(raw[:, :size]) if unit else raw
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
