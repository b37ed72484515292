"""Voyage's API, where it is its own: POST /v1/multimodalembeddings and /v1/contextualizedembeddings."""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from msgspec import Meta, Raw, Struct
from starlette.responses import Response

from gateway import vectors
from gateway.catalog import Model
from gateway.errors import InvalidRequest
from gateway.routes import encodings
from gateway.routes.body import read
from gateway.routes.calls import embed_documents, embed_items, find_model
from gateway.routes.content import Parts, read_parts
from gateway.routes.decoding import Refused
from gateway.routes.embeddings import Embedding
from gateway.routes.encodings import EmbeddingType
from gateway.routes.http import Request, large_json_response
from gateway.routes.late_chunking import joined
from gateway.routes.operation import Operation
from gateway.service.embed import DENSE, Item
from gateway.service.text_batches import MAX_ROWS

Chunks = Annotated[list[str], Meta(min_length=1, max_length=MAX_ROWS)]


class VoyageRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """The fields that both requests share."""

    model: str | None = None
    """A name or alias from /v1/models. Default: the default embedding model."""
    input_type: str | None = None
    """The purpose of the texts: query or document. Selects the prompt that the model puts before them."""
    output_dimension: Annotated[int, Meta(ge=0)] | None = None
    """Truncate vectors to this many dimensions, which the model must support, and normalize them again. 0 for all."""
    output_dtype: EmbeddingType | None = None
    """The number type of the vectors. Default: float."""
    encoding_format: Literal["float", "base64"] | None = None
    """How to write floats: as numbers, or as base64 of little-endian float32."""

    def output(self, model: Model) -> tuple[int, EmbeddingType]:
        """The size and the number type of the vectors.

        Raises:
            InvalidRequest: the model does not support the size, or the type does not fit it.
        """
        size = encodings.size(model, self.output_dimension or None, "output_dimension")
        kind = self.output_dtype or "float"
        encodings.check([kind], size, "output_dtype")
        return size, "base64" if kind == "float" and self.encoding_format == "base64" else kind


class MultimodalInput(Struct, forbid_unknown_fields=True):
    """The input for one vector: texts and images. Models that do not read them together take one of each at most."""

    content: Parts


class MultimodalRequest(VoyageRequest):
    """Texts and images to embed."""

    inputs: Annotated[list[MultimodalInput], Meta(min_length=1, max_length=MAX_ROWS)]
    truncation: bool | None = None
    """Whether to truncate texts over the model's limit at the end; if false, they are an error. Default: true."""


class ContextualizedRequest(VoyageRequest):
    """Documents whose chunks to embed, each in the context of its document, by late chunking."""

    inputs: Annotated[list[Chunks], Meta(min_length=1, max_length=MAX_ROWS)]
    """The chunks of each document in their order, or a list of one text, such as a query, which any model embeds.
    Documents over the model's limit are computed in windows that overlap; single texts are an error."""
    refused: ClassVar[Mapping[str, Refused]] = {
        name: Refused("send the chunks of each document as a list")
        for name in ("enable_auto_chunking", "chunk_size", "chunk_overlap")
    }


class MultimodalUsage(Struct):
    """The number of tokens and pixels."""

    text_tokens: int
    """Includes special tokens."""
    image_pixels: int
    """Always 0: images count in total_tokens, as the patches that the model divides them into."""
    video_pixels: int
    """Always 0: there are no videos."""
    total_tokens: int


class MultimodalResponse(Struct):
    """The vectors, in the order of the inputs."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: MultimodalUsage


class ChunkEmbeddings(Struct):
    """The vectors of a document's chunks, in their order."""

    object: Literal["list"]
    data: list[Embedding]
    index: int


class ContextualizedUsage(Struct):
    """The number of tokens computed: special tokens and prompt with each document or window."""

    total_tokens: int


class ContextualizedResponse(Struct):
    """The vectors by document, in the order of the inputs."""

    object: Literal["list"]
    data: list[ChunkEmbeddings]
    model: str
    usage: ContextualizedUsage


async def embed(request: Request) -> Response:
    """Answer POST /v1/multimodalembeddings."""
    body = await read(request, MultimodalRequest)
    model = find_model(request, body.model, DENSE)
    size, kind = body.output(model)
    embedded = await embed_items(
        request,
        model,
        [
            Item(f"inputs[{i}]", content=read_parts(given.content, f"inputs[{i}].content"))
            for i, given in enumerate(body.inputs)
        ],
        purpose=body.input_type,
        place="input_type",
        truncate="none" if body.truncation is False else "end",
    )
    tokens = embedded.text_tokens, embedded.image_tokens

    def build() -> MultimodalResponse:
        usage = MultimodalUsage(tokens[0], 0, 0, sum(tokens))
        return MultimodalResponse("list", _embeddings(_column(embedded.vectors, size, kind)), model.name, usage)

    return await large_json_response(request, build, embedded.vectors.size)


async def embed_chunks(request: Request) -> Response:
    """Answer POST /v1/contextualizedembeddings."""
    body = await read(request, ContextualizedRequest)
    model = find_model(request, body.model, DENSE)
    size, kind = body.output(model)
    count = sum(map(len, body.inputs))
    if count > MAX_ROWS:
        raise InvalidRequest(f"inputs has {count} chunks; it must have 1 to {MAX_ROWS}", param="inputs")
    found, tokens = await _embed_documents(request, model, body)

    def build() -> ContextualizedResponse:
        written = iter(_column(found, size, kind))
        data = [
            ChunkEmbeddings("list", _embeddings([next(written) for _ in chunks]), i)
            for i, chunks in enumerate(body.inputs)
        ]
        return ContextualizedResponse("list", data, model.name, ContextualizedUsage(tokens))

    return await large_json_response(request, build, found.size)


async def _embed_documents(request: Request, model: Model, body: ContextualizedRequest) -> tuple[vectors.Floats, int]:
    """The vectors of all chunks, [n, d], and the number of tokens."""
    documents = [
        [Item(f"inputs[{i}][{j}]", text) for j, text in enumerate(chunks)] for i, chunks in enumerate(body.inputs)
    ]
    if all(len(document) == 1 for document in documents):
        items = [item for document in documents for item in document]
        embedded = await embed_items(
            request, model, items, purpose=body.input_type, place="input_type", truncate="none"
        )
        return embedded.vectors, embedded.text_tokens
    found = await embed_documents(
        request,
        model,
        [joined(document) for document in documents],
        places=[f"inputs[{i}]" for i in range(len(documents))],
        purpose=body.input_type,
        place="input_type",
        in_windows=True,
    )
    parts = [one.embedded for one in found]
    return np.concatenate([one.vectors for one in parts]), sum(one.text_tokens for one in parts)


def _column(floats: vectors.Floats, size: int, kind: EmbeddingType) -> list[Raw]:
    return encodings.column(vectors.normalize(floats[:, :size]), kind)


def _embeddings(written: Sequence[Raw]) -> list[Embedding]:
    return [Embedding("embedding", i, vector) for i, vector in enumerate(written)]


OPERATIONS = (
    Operation(
        "post",
        "/v1/multimodalembeddings",
        "voyageMultimodalEmbeddings",
        "Embed texts and images (Voyage)",
        embed,
        MultimodalResponse,
        MultimodalRequest,
        {"inputs": [{"content": [{"type": "text", "text": "a shell"}]}]},
    ),
    Operation(
        "post",
        "/v1/contextualizedembeddings",
        "voyageContextualizedEmbeddings",
        "Embed chunks of documents in their context (Voyage)",
        embed_chunks,
        ContextualizedResponse,
        ContextualizedRequest,
        {"inputs": [["Berlin is the capital of Germany.", "It has 3.7 million inhabitants."]]},
    ),
)
