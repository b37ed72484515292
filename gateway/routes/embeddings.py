"""POST /v1/embeddings, as OpenAI's clients and Jina's call it."""

import base64
from typing import Annotated, Literal

import numpy as np
import orjson
from msgspec import Meta, Raw, Struct
from starlette.responses import Response

from gateway import vectors
from gateway.catalog import EMBEDDING_ROLES, Model
from gateway.errors import InvalidRequest
from gateway.routes.http import Request, answer, find_model, read
from gateway.service.embed import embed
from gateway.service.rows import MAX_ROWS
from gateway.service.tokens import MAX_TOKENS, Text

EmbeddingType = Literal["float", "base64", "int8", "uint8", "binary", "ubinary"]
TokenIds = list[int]


class InputItem(Struct, forbid_unknown_fields=True):
    """One input as an object. Clients send both keys; an empty string counts as absent."""

    text: str = ""
    image: str = ""


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


class EmbeddingUsage(Struct):
    """Tokens computed, special tokens included."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(Struct):
    """The vectors in the order of the inputs."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


async def create(request: Request) -> Response:
    """Answer POST /v1/embeddings."""
    body = await read(request, EmbeddingRequest)
    model = find_model(request, body.model, EMBEDDING_ROLES)
    _check_output(body, model)
    texts = read_inputs(body.input, model)
    places = [f"input[{i}]" for i in range(len(texts))] if isinstance(body.input, list) else ["input"]
    embedded = await embed(request.state["gateway"].triton, model, texts, places, truncate=body.truncate is True)
    request.state["log"] |= {"inputs": len(texts), "tokens": embedded.tokens}
    return answer(
        EmbeddingResponse(
            object="list",
            model=model.name,
            data=[
                Embedding(object="embedding", index=i, embedding=Raw(embedding))
                for i, embedding in enumerate(write(embedded.vectors, body))
            ],
            usage=EmbeddingUsage(prompt_tokens=embedded.tokens, total_tokens=embedded.tokens),
        )
    )


def read_inputs(given: str | InputItem | list[str | int | TokenIds | InputItem], model: Model) -> list[Text]:
    """Bring every way of writing inputs into one: texts and lists of token ids.

    Raises:
        InvalidRequest: there are too many, an object holds an image or no text, or single token ids stand among other
            inputs.
    """
    if not isinstance(given, list):
        given = [given]
    elif 0 < len(given) <= MAX_TOKENS and all(isinstance(item, int) for item in given):
        return [[item for item in given if isinstance(item, int)]]
    if not 1 <= len(given) <= MAX_ROWS:
        raise InvalidRequest(f"input holds {len(given)} items; it must hold 1 to {MAX_ROWS}", param="input")
    return [_text(item, model, f"input[{i}]") for i, item in enumerate(given)]


def _text(item: str | int | TokenIds | InputItem, model: Model, param: str) -> Text:
    if isinstance(item, int):
        raise InvalidRequest(
            f"{param} is a token id among other inputs; send each list of token ids as a list", param=param
        )
    if not isinstance(item, InputItem):
        return item
    if item.image:
        raise InvalidRequest(
            f"{param} holds an image; model {model.name!r} takes text only, and no model served here takes images",
            param=f"{param}.image",
        )
    if not item.text:
        raise InvalidRequest(f"{param} holds neither text nor image", param=param)
    return item.text


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
