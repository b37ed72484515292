"""The API of llama.cpp's server, where it is its own: POST /embedding and /reranking."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from msgspec import Struct
from starlette.responses import Response

from gateway import vectors
from gateway.error_body import OPENAI
from gateway.errors import InvalidRequest
from gateway.routes import encodings
from gateway.routes.body import read
from gateway.routes.calls import embed_items, find_model
from gateway.routes.decoding import Refused
from gateway.routes.encodings import Vector
from gateway.routes.http import Request, large_json_response
from gateway.routes.operation import Operation
from gateway.routes.tei import RERANK, Inputs, read_items
from gateway.service.embed import DENSE

L2, RAW = 2, -1
"""Values of `embd_normalize`: scale vectors to length 1, or leave them as the model computes them."""


class LlamaCppEmbedRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """Texts to embed."""

    content: Inputs | None = None
    """A text, token ids, or a list of either. Required."""
    input: Inputs | None = None
    """An alias of content."""
    embd_normalize: int | None = None
    """2, the default, scales each vector to length 1; -1 leaves it as the model computes it."""
    model: str | None = None
    """A name or alias from /v1/models. Default: the default embedding model."""
    aliases: ClassVar[Mapping[str, str]] = {"input": "content"}
    refused: ClassVar[Mapping[str, Refused]] = {
        "encoding_format": Refused("only lists of floats are supported; use POST /v1/embeddings", ("float",)),
    }


class LlamaCppEmbedding(Struct):
    """The embedding of one text."""

    index: int
    embedding: list[Vector]
    """The vector, in a list of its own: llama.cpp has one for each token where a model does not pool them."""


async def embed(request: Request) -> Response:
    """Answer POST /embedding."""
    body = await read(request, LlamaCppEmbedRequest)
    if body.content is None:
        raise InvalidRequest("content is required", param="content")
    if body.embd_normalize not in (None, L2, RAW):
        raise InvalidRequest(
            f"embd_normalize is {body.embd_normalize}; supported are {L2} (length 1) and {RAW} (as computed)",
            param="embd_normalize",
        )
    model = find_model(request, body.model, DENSE)
    embedded = await embed_items(
        request, model, read_items(body.content, "content"), purpose=None, place="content", truncate="none"
    )

    def build() -> list[LlamaCppEmbedding]:
        floats = embedded.vectors if body.embd_normalize == RAW else vectors.normalize(embedded.vectors)
        return [LlamaCppEmbedding(i, [vector]) for i, vector in enumerate(encodings.column(floats, "float"))]

    return await large_json_response(request, build, embedded.vectors.size)


OPERATIONS = tuple(
    replace(operation, dialect=OPENAI, tag="llama.cpp")
    for operation in (
        Operation(
            "post",
            "/embedding",
            "llamaCppEmbedding",
            "Embed texts (llama.cpp)",
            embed,
            list[LlamaCppEmbedding],
            LlamaCppEmbedRequest,
            {"content": ["a shell", "a trumpet"]},
        ),
        RERANK.also("/reranking", "AtReranking"),
    )
)
