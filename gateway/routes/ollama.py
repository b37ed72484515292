"""Ollama's API: /api/embed, /api/embeddings, /api/tags, /api/ps, /api/show, /api/pull, /api/version.

Ollama's names have a tag, `:latest` by default. Here a model is found with and without it.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Raw, Struct
from starlette.responses import Response

from gateway import vectors
from gateway.catalog import Model
from gateway.error_body import ErrorFormat
from gateway.errors import InvalidRequest, ModelNotFound
from gateway.routes import encodings
from gateway.routes.body import read
from gateway.routes.calls import LATEST, embed_items, find_model_and_purpose, record_usage
from gateway.routes.encodings import Vector
from gateway.routes.http import Request, json_response, large_json_response
from gateway.routes.operation import Operation
from gateway.service.embed import DENSE, Embeddings, Item
from gateway.service.text_batches import MAX_ROWS
from gateway.text.tokenizer import Truncate

VERSION = "0.12.0"
"""The version of Ollama whose API this is: clients may refuse a server that is older than they need."""
Time = Annotated[datetime, Meta(tz=True)]
NEVER = datetime(9999, 12, 31, tzinfo=UTC)
"""When a model is unloaded for want of requests."""


class OllamaError(Struct):
    """The body of an error response."""

    error: str


class OllamaRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """The fields that requests for vectors share."""

    model: str
    """A name from /api/tags, with or without `:latest`. As on /v1/embeddings, it may end in `-query` or `-passage`."""
    keep_alive: str | float | None = None
    """Accepted but ignored: models stay loaded."""
    options: dict[str, Any] | None = None
    """Accepted but ignored: they are for generation. The limit of a text is the model's, whatever `num_ctx` says."""


class OllamaEmbedRequest(OllamaRequest):
    """Texts to embed."""

    input: str | Annotated[list[str], Meta(max_length=MAX_ROWS)]
    """A text or a list of texts. For an empty string or list, by which clients of Ollama load a model, there are no
    vectors."""
    truncate: bool | None = None
    """Whether to truncate texts over the model's limit at the end; if false, they are an error. Default: true."""
    dimensions: Annotated[int, Meta(ge=0)] | None = None
    """Truncate vectors to this many dimensions, which the model must support, and normalize them again. 0 for all."""


class OllamaEmbeddingsRequest(OllamaRequest):
    """A text to embed, as in Ollama's first API."""

    prompt: str
    """The text, truncated at the end if it is over the model's limit. For an empty string, the vector is empty."""


class OllamaModelRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """The name of a model."""

    model: str | None = None
    """A name from /api/tags, with or without `:latest`. Required."""
    name: str | None = None
    """An older name of `model`."""
    aliases: ClassVar[Mapping[str, str]] = {"name": "model"}


class OllamaShowRequest(OllamaModelRequest):
    """The model to describe."""

    verbose: bool | None = None
    """Accepted but ignored."""


class OllamaPullRequest(OllamaModelRequest):
    """The model to download. This server downloads none: the model must be served already."""

    insecure: bool | None = None
    """Accepted but ignored."""
    stream: bool | None = None
    """Accepted but ignored: the response is one object, which is also a stream of one."""


class OllamaEmbedResponse(Struct):
    """The vectors, in the order of the texts, scaled to length 1."""

    model: str
    """The name in the request."""
    embeddings: list[Vector]
    total_duration: int
    """In nanoseconds, like the next."""
    load_duration: int
    """Always 0: the model is loaded."""
    prompt_eval_count: int
    """The number of tokens of all texts, after truncation, including special tokens."""


class OllamaEmbeddingsResponse(Struct):
    """The vector of the text, scaled to length 1."""

    embedding: Vector


class OllamaDetails(Struct):
    """What Ollama says of a model's file, as far as it is known."""

    parent_model: str
    format: Literal["triton"]
    """Where Ollama says "gguf"."""
    family: str
    """The role of the model in /v1/models."""
    families: tuple[str, ...]
    parameter_size: str
    quantization_level: str


class OllamaModel(Struct):
    """A model that computes vectors of texts."""

    name: str
    """With its tag."""
    model: str
    """The same."""
    modified_at: Time
    """When this server first found the model."""
    size: int
    """Always 0: unknown."""
    digest: str
    """The same for all names of a model: a hash of the first."""
    details: OllamaDetails


class OllamaModels(Struct):
    """The models, once for each of their names."""

    models: list[OllamaModel]


class OllamaRunningModel(Struct):
    """A model in memory."""

    name: str
    model: str
    size: int
    digest: str
    details: OllamaDetails
    expires_at: Time
    size_vram: int
    context_length: int
    """The longest text, in tokens."""


class OllamaRunningModels(Struct):
    """All models: those that are served are loaded."""

    models: list[OllamaRunningModel]


class OllamaDescription(Struct):
    """A model in detail."""

    modelfile: str
    parameters: str
    template: str
    details: OllamaDetails
    model_info: dict[str, str | int]
    """The family as architecture, the longest text in tokens as its context_length, and the dimensions as its
    embedding_length."""
    capabilities: tuple[Literal["embedding"], ...]
    modified_at: Time


class OllamaStatus(Struct):
    """The end of a download."""

    status: Literal["success"]


class OllamaVersion(Struct):
    """The version of Ollama whose API this is."""

    version: str


OLLAMA = ErrorFormat(OllamaError, lambda failure: OllamaError(failure.message))
"""Ollama's error bodies, with this server's own statuses."""


async def embed(request: Request) -> Response:
    """Answer POST /api/embed."""
    started = time.perf_counter_ns()
    body = await read(request, OllamaEmbedRequest)
    model, purpose = _find(request, body.model)
    size = encodings.size(model, body.dimensions or None)
    if isinstance(body.input, str):
        items = [Item("input", body.input)] if body.input else []
    else:
        items = [Item(f"input[{i}]", text) for i, text in enumerate(body.input)]
    embedded = await _embed(request, model, items, purpose, "none" if body.truncate is False else "end")

    def build() -> OllamaEmbedResponse:
        embeddings = _written(embedded, size)
        taken = time.perf_counter_ns() - started
        return OllamaEmbedResponse(body.model, embeddings, taken, 0, embedded.text_tokens if embedded else 0)

    return await large_json_response(request, build, embedded.vectors.size if embedded else 0)


async def embed_prompt(request: Request) -> Response:
    """Answer POST /api/embeddings."""
    body = await read(request, OllamaEmbeddingsRequest)
    model, purpose = _find(request, body.model)
    items = [Item("prompt", body.prompt)] if body.prompt else []
    embedded = await _embed(request, model, items, purpose, "end")
    (vector,) = _written(embedded, model.width) or [Raw(b"[]")]
    return json_response(OllamaEmbeddingsResponse(vector))


async def _embed(
    request: Request, model: Model, items: Sequence[Item], purpose: str | None, truncate: Truncate
) -> Embeddings | None:
    """The vectors of the items; None if there are no items."""
    if not items:
        record_usage(request, 0, 0)
        return None
    return await embed_items(request, model, items, purpose=purpose, place="model", truncate=truncate)


def _written(embedded: Embeddings | None, size: int) -> list[Raw]:
    if embedded is None:
        return []
    return encodings.column(vectors.normalize(embedded.vectors[:, :size]), "float")


def _find(request: Request, name: str) -> tuple[Model, str | None]:
    """Find a model with or without its tag, and the purpose if the name ends in one; see `find_model_and_purpose`."""
    try:
        return find_model_and_purpose(request, name, DENSE)
    except ModelNotFound:
        with suppress(ModelNotFound):
            return find_model_and_purpose(request, name + LATEST, DENSE)
        raise


async def list_models(request: Request) -> Response:
    """Answer GET /api/tags."""
    return json_response(
        OllamaModels(
            [
                OllamaModel(name, name, _time(model), 0, _digest(model), _details(model))
                for model, _ in _served(request)
                for name in map(_tagged, (model.name, *model.aliases))
            ]
        )
    )


async def list_running_models(request: Request) -> Response:
    """Answer GET /api/ps."""
    return json_response(
        OllamaRunningModels(
            [
                OllamaRunningModel(name, name, 0, _digest(model), _details(model), NEVER, 0, limit)
                for model, limit in _served(request)
                for name in [_tagged(model.name)]
            ]
        )
    )


async def show(request: Request) -> Response:
    """Answer POST /api/show."""
    model = _named(request, await read(request, OllamaShowRequest))
    family = model.role
    information: dict[str, str | int] = {"general.architecture": family, f"{family}.embedding_length": model.width}
    if model.text is not None:
        information[f"{family}.context_length"] = model.text.max_tokens
    return json_response(
        OllamaDescription(
            modelfile=f"FROM {_tagged(model.name)}",
            parameters="",
            template="{{ .Prompt }}",
            details=_details(model),
            model_info=information,
            capabilities=("embedding",),
            modified_at=_time(model),
        )
    )


async def pull(request: Request) -> Response:
    """Answer POST /api/pull: success if the model is served, otherwise an error."""
    _named(request, await read(request, OllamaPullRequest))
    return json_response(OllamaStatus("success"))


async def version(_: Request) -> Response:
    """Answer GET /api/version."""
    return json_response(OllamaVersion(VERSION))


def _named(request: Request, body: OllamaModelRequest) -> Model:
    if body.model is None:
        raise InvalidRequest("model is required", param="model")
    model, _ = _find(request, body.model)
    return model


def _served(request: Request) -> Iterator[tuple[Model, int]]:
    """The models that /api/embed may be asked for, and the limit of their texts."""
    for model in request.state["gateway"].catalog.models:
        if model.text is not None and "dense" in model.offers:
            yield model, model.text.max_tokens


def _tagged(name: str) -> str:
    return name if ":" in name else name + LATEST


def _time(model: Model) -> datetime:
    return datetime.fromtimestamp(model.created, UTC)


def _digest(model: Model) -> str:
    """Of Ollama's form. Ollama's own is that of a file."""
    return sha256(model.name.encode()).hexdigest()


def _details(model: Model) -> OllamaDetails:
    return OllamaDetails("", "triton", model.role, (model.role,), "", "")


OPERATIONS = (
    Operation(
        "post",
        "/api/embed",
        "ollamaEmbed",
        "Embed texts (Ollama)",
        embed,
        OllamaEmbedResponse,
        OllamaEmbedRequest,
        {"model": "all-minilm-l6-v2", "input": ["a shell", "a trumpet"]},
    ),
    Operation(
        "post",
        "/api/embeddings",
        "ollamaEmbeddings",
        "Embed a text (Ollama)",
        embed_prompt,
        OllamaEmbeddingsResponse,
        OllamaEmbeddingsRequest,
        {"model": "all-minilm-l6-v2", "prompt": "a shell"},
    ),
    Operation("get", "/api/tags", "ollamaTags", "List the models (Ollama)", list_models, OllamaModels),
    Operation(
        "get", "/api/ps", "ollamaPs", "List the loaded models (Ollama)", list_running_models, OllamaRunningModels
    ),
    Operation(
        "post",
        "/api/show",
        "ollamaShow",
        "Describe a model (Ollama)",
        show,
        OllamaDescription,
        OllamaShowRequest,
        {"model": "all-minilm-l6-v2"},
    ),
    Operation(
        "post",
        "/api/pull",
        "ollamaPull",
        "Make sure that a model is served (Ollama)",
        pull,
        OllamaStatus,
        OllamaPullRequest,
        {"model": "all-minilm-l6-v2"},
    ),
    Operation("get", "/api/version", "ollamaVersion", "The version of Ollama's API (Ollama)", version, OllamaVersion),
)
