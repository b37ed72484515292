"""POST /v1/embeddings, as OpenAI's clients and Jina's call it: texts, images, and both in one."""

import base64
from typing import Annotated, Literal

import numpy as np
import orjson
from msgspec import Meta, Raw, Struct
from starlette.responses import Response

from gateway import vectors
from gateway.catalog import EMBEDDING_ROLES, Model
from gateway.errors import InvalidRequest
from gateway.routes.http import Request, answer, caller, find_model, read
from gateway.service.embed import Item, embed
from gateway.service.rows import MAX_ROWS
from gateway.service.tokens import MAX_TOKENS

EmbeddingType = Literal["float", "base64", "int8", "uint8", "binary", "ubinary"]
TokenIds = list[int]


class InputItem(Struct, forbid_unknown_fields=True):
    """One input as an object. With text and image, both make one vector; an empty string counts as absent."""

    text: str = ""
    image: str = ""
    """A data: URI, base64, or an http(s) URL where the server fetches images. PNG, JPEG, WebP, GIF or BMP."""


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
    truncate: bool | None = False
    """Whether to cut inputs over the model's limit; otherwise they are an error."""
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
    gateway = request.state["gateway"]
    model = find_model(request, body.model, EMBEDDING_ROLES)
    _check_output(body, model)
    items = read_inputs(body.input)
    embedded = await embed(
        caller(request), gateway.images, gateway.catalog.models, model, items, truncate=body.truncate is True
    )
    tokens = embedded.text_tokens + embedded.image_tokens
    request.state["log"] |= {"inputs": len(items), "tokens": tokens}
    return answer(
        EmbeddingResponse(
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
    )


def read_inputs(given: str | InputItem | list[str | int | TokenIds | InputItem]) -> list[Item]:
    """Bring every way of writing inputs into one.

    Raises:
        InvalidRequest: there are too many, an object is empty, or single token ids stand among other inputs.
    """
    if not isinstance(given, list):
        return [_item(given, "input")]
    if 0 < len(given) <= MAX_TOKENS and all(isinstance(item, int) for item in given):
        return [Item("input[0]", [item for item in given if isinstance(item, int)])]
    if not 1 <= len(given) <= MAX_ROWS:
        raise InvalidRequest(f"input holds {len(given)} items; it must hold 1 to {MAX_ROWS}", param="input")
    return [_item(item, f"input[{i}]") for i, item in enumerate(given)]


def _item(item: str | int | TokenIds | InputItem, place: str) -> Item:
    if isinstance(item, int):
        raise InvalidRequest(
            f"{place} is a token id among other inputs; send each list of token ids as a list", param=place
        )
    if not isinstance(item, InputItem):
        return Item(place, item)
    if not item.text and not item.image:
        raise InvalidRequest(f"{place} holds neither text nor image", param=place)
    return Item(place, item.text or None, item.image or None)


def _check_output(body: EmbeddingRequest, model: Model) -> None:
    """Refuse what cannot be answered before anything is computed."""
    size = body.dimensions or model.width
    if size not in (model.width, *model.dimensions):
        sizes = ", ".join(map(str, sorted({model.width, *model.dimensions})))
        raise InvalidRequest(
            f"dimensions is {size}; the embeddings of model {model.name!r} can have {sizes}", param="dimensions"
        )
    kinds = set(_kinds(body))
    if body.normalized is False and kinds & {"int8", "uint8"}:
        raise InvalidRequest("int8 and uint8 quantise normalised vectors; leave out normalized", param="normalized")
    if size % 8 and kinds & {"binary", "ubinary"}:
        raise InvalidRequest(f"binary and ubinary need dimensions in eights, not {size}", param="embedding_type")


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
    columns = {kind: _column(floats, kind, body.encoding_format) for kind in kinds}
    if not isinstance(body.embedding_type, list):
        return columns[kinds[0]]
    return [
        b"{" + b",".join(b'"%s":%s' % (kind.encode(), column[i]) for kind, column in columns.items()) + b"}"
        for i in range(len(floats))
    ]


def _column(floats: vectors.Floats, kind: EmbeddingType, encoding_format: str | None) -> list[bytes]:
    if kind == "base64" or (kind == "float" and encoding_format == "base64"):
        return [b'"%s"' % base64.b64encode(row) for row in np.ascontiguousarray(floats, "<f4")]
    numbers = floats if kind == "float" else vectors.QUANTISATIONS[kind](floats)
    return [orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) for row in np.ascontiguousarray(numbers)]
