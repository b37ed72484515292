"""POST /v1/embeddings, as OpenAI's clients and Jina's call it: texts, images, and both in one."""

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, cast

from msgspec import Meta, Raw, Struct
from starlette.responses import Response

from gateway import vectors
from gateway.catalog import Model
from gateway.contract import EMBEDDING_ROLES
from gateway.errors import InvalidRequest
from gateway.routes import encodings
from gateway.routes.body import read, rename
from gateway.routes.calls import embed_items, find_model_for
from gateway.routes.decoding import Refused
from gateway.routes.encodings import EmbeddingType
from gateway.routes.fields import TRUNCATIONS, Instruction, PromptTokens, Side, Truncation, prompt_tokens
from gateway.routes.http import Request, large_json_response
from gateway.routes.operation import Operation
from gateway.service.embed import Embeddings, Item
from gateway.service.text_batches import MAX_ROWS
from gateway.service.tokens import MAX_TOKENS
from gateway.text.tokenizer import Truncate

TokenIds = list[int]
OTHER_NAMES = {
    "output_dimension": "dimensions",
    "output_dtype": "embedding_type",
    "encoding_type": "embedding_type",
    "normalize": "normalized",
    "truncation": "truncate",
    "instruct": "instruction",
}
IMAGE = re.compile(r"\s*data:image/", re.IGNORECASE)
"""How an image among texts begins, for models that take both: some clients of Jina send images as strings."""
BEGINNING = 256
"""Characters of a text in which an image begins: millions of blanks take long to match."""


class InputItem(Struct, forbid_unknown_fields=True):
    """One input as an object. With text and image, both make one vector; an empty string counts as absent."""

    text: str = ""
    image: str = ""
    """A data: URI, base64, or an http(s) URL where the server fetches images. PNG, JPEG, WebP, GIF or BMP."""
    url: str = ""
    """An image by its URL, as Jina's older clients have it."""
    bytes: str = ""
    """An image in base64, as they have it."""
    refused: ClassVar[Mapping[str, Refused]] = {
        kind: Refused("models take text and images only") for kind in ("audio", "pdf", "video")
    }


class EmbeddingRequest(Struct, forbid_unknown_fields=True):
    """What to embed and how to answer."""

    input: str | InputItem | list[str | int | TokenIds | InputItem]
    """A text, an object, token ids, or a list that mixes texts, objects and lists of token ids."""
    model: str | None = None
    """A name or alias from /v1/models; left out, the default embedding model answers."""
    normalized: bool | None = None
    """Whether to scale each vector to length 1, as by default."""
    encoding_format: Literal["float", "base64"] | None = None
    """How floats are written: numbers, or base64 of little-endian float32."""
    embedding_type: EmbeddingType | Annotated[list[EmbeddingType], Meta(min_length=1)] | None = None
    """What numbers to send. A list of types makes `embedding` an object with a vector for each."""
    dimensions: Annotated[int, Meta(ge=0)] | None = None
    """Cut vectors to this size and normalise again; only sizes that the model was trained for. 0 means all."""
    truncate: bool | Truncation | None = None
    """Whether to cut inputs over the model's limit, or at which end, as NIM has it; otherwise they are an error."""
    output_dimension: Annotated[int, Meta(ge=0)] | None = None
    """Voyage's name of dimensions."""
    output_dtype: EmbeddingType | None = None
    """Voyage's name of embedding_type."""
    encoding_type: EmbeddingType | Annotated[list[EmbeddingType], Meta(min_length=1)] | None = None
    """LlamaIndex's name of embedding_type."""
    normalize: bool | None = None
    """TEI's and vLLM's name of normalized."""
    truncation: bool | None = None
    """Voyage's name of truncate."""
    truncate_prompt_tokens: PromptTokens | None = None
    """Cut inputs over this many tokens, or over the model's limit, if that is lower or this is -1, as vLLM has it."""
    truncation_side: Side | None = None
    """Where inputs are cut, right by default; left keeps their end."""
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
    modality: Literal["text", "image"] | None = None
    """What strings are, as Infinity has it; by default those that begin with data:image/ are images, for models that
    take images, and all others are texts."""
    user: str | None = None
    """Accepted for OpenAI's sake, not used."""
    refused: ClassVar[Mapping[str, Refused]] = {
        "add_special_tokens": Refused("special tokens are always added", (True,)),
        "chat_template": Refused("models have templates of their own; send input"),
        "embedding_types": Refused("here this is called embedding_type", ("float", ["float"])),
        "embed_dtype": Refused("floats are float32; for other types send embedding_type", ("float32",)),
        "endianness": Refused("base64 is of little-endian floats", ("little", "native")),
        "late_chunking": Refused("this is not supported: models pool in the graph, each input by itself"),
        "max_tokens": Refused("here this is called truncate_prompt_tokens"),
        "messages": Refused("conversations are not supported; send input"),
        "prompt": Refused("prompts are the model's own; prompt_name and instruction choose among them"),
        "return_multivector": Refused("this is not supported: models pool in the graph, into one vector"),
        "task_type": Refused("here this is called task"),
        "truncation_direction": Refused("here this is called truncation_side", ("right", "Right")),
        "use_activation": Refused("send normalized", (True,)),
    }


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

    id: str
    """Of the request; Mistral's clients want one."""
    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


async def create(request: Request) -> Response:
    """Answer POST /v1/embeddings."""
    return await _answer(request, await read(request, EmbeddingRequest))


async def create_for_deployment(request: Request) -> Response:
    """Answer POST /openai/deployments/{model}/embeddings, as Azure's clients call it: the path names the model."""
    body = await read(request, EmbeddingRequest)
    body.model = request.path_params["model"]
    return await _answer(request, body)


async def _answer(request: Request, body: EmbeddingRequest) -> Response:
    rename(body, OTHER_NAMES)
    body.dimensions = body.dimensions or None
    model, suffix = find_model_for(request, body.model, EMBEDDING_ROLES)
    _check_output(body, model)
    items = read_inputs(body.input, body.modality or ("any" if model.image is not None else "text"))
    place, purpose = _purpose(body, suffix)
    truncate, max_tokens = _limit(body)
    embedded = await embed_items(
        request,
        model,
        items,
        purpose=purpose,
        place=place,
        truncate=truncate,
        max_tokens=max_tokens,
        instruction=body.instruction,
    )
    numbers = embedded.vectors.size * len(_kinds(body))
    return await large_json_response(
        request, lambda: _response(request.state["record"].request_id, body, model, embedded), numbers
    )


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
    """What to do with inputs over the limit, and a limit below the model's own."""
    asked = body.truncate
    truncate: Truncate = TRUNCATIONS[asked] if isinstance(asked, str) else "end" if asked else "none"
    is_refused = asked is False or asked == "NONE"
    return prompt_tokens(body.truncate_prompt_tokens, body.truncation_side, truncate, is_refused=is_refused)


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


def read_inputs(
    given: str | InputItem | list[str | int | TokenIds | InputItem], strings: Literal["text", "image", "any"]
) -> list[Item]:
    """Bring every way of writing inputs into one.

    Args:
        given: one input, or all.
        strings: what strings among them are; "any" are images where they begin so.

    Raises:
        InvalidRequest: there are too many, an object is empty, or single token ids stand among other inputs.
    """
    if not isinstance(given, list):
        return [_item(given, "input", strings)]
    if 0 < len(given) <= MAX_TOKENS and {*map(type, given)} == {int}:
        return [Item("input[0]", cast(TokenIds, given))]
    if not 1 <= len(given) <= MAX_ROWS:
        raise InvalidRequest(f"input holds {len(given)} items; it must hold 1 to {MAX_ROWS}", param="input")
    return [_item(item, f"input[{i}]", strings) for i, item in enumerate(given)]


def _item(item: str | int | TokenIds | InputItem, place: str, strings: Literal["text", "image", "any"]) -> Item:
    if isinstance(item, int):
        raise InvalidRequest(
            f"{place} is a token id among other inputs; send each list of token ids as a list", param=place
        )
    if isinstance(item, str) and (strings == "image" or (strings == "any" and IMAGE.match(item, 0, BEGINNING))):
        return Item(place, image=item.strip(), image_place=place)
    if not isinstance(item, InputItem):
        return Item(place, item)
    images = [image.strip() for image in (item.image, item.url, item.bytes) if image]
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
