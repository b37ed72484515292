"""GET /v1/models and /v1/models/{id}: OpenAI's shape, and what a client needs to know beyond it."""

from typing import Literal

from msgspec import UNSET, Struct, UnsetType
from starlette.responses import Response

from gateway.catalog import Model
from gateway.contract import EMBEDDING_ROLES, RERANK_ROLES
from gateway.routes.http import Request, json_response
from gateway.routes.operation import Operation


class ModelObject(Struct, omit_defaults=True):
    """One model."""

    id: str
    object: Literal["model"]
    created: int
    """Seconds since 1970 when this gateway first saw it."""
    owned_by: str
    role: str
    model_type: Literal["embedding", "rerank"]
    """What it does, as Xinference's clients ask."""
    input_modalities: tuple[str, ...]
    """What its inputs may be: "text", "image"."""
    aliases: tuple[str, ...]
    max_tokens: int | UnsetType = UNSET
    """Of a text; absent for models that take images only."""
    dimensions: int | UnsetType = UNSET
    """Of its embeddings; absent for rerankers."""
    supported_dimensions: tuple[int, ...] | UnsetType = UNSET
    """All sizes that `dimensions` of a request may be, where there are several."""
    tasks: tuple[str, ...] | UnsetType = UNSET
    """What `task` of a request chooses among, the default first, where the model has variants."""


class ModelList(Struct):
    """All models."""

    object: Literal["list"]
    data: list[ModelObject]


async def list_models(request: Request) -> Response:
    """Answer GET /v1/models."""
    models = request.state["gateway"].catalog.models
    return json_response(ModelList(object="list", data=[_describe(model) for model in models]))


async def retrieve(request: Request) -> Response:
    """Answer GET /v1/models/{id}, for a name or an alias."""
    catalog = request.state["gateway"].catalog
    return json_response(_describe(catalog.find(request.path_params["id"], EMBEDDING_ROLES | RERANK_ROLES)))


def _describe(model: Model) -> ModelObject:
    is_embedding = model.triton_models[0].role in EMBEDDING_ROLES
    takes = (("text", model.text), ("image", model.image))
    return ModelObject(
        id=model.name,
        object="model",
        created=model.created,
        owned_by="conch",
        role=model.role,
        model_type="embedding" if is_embedding else "rerank",
        input_modalities=tuple(name for name, triton_model in takes if triton_model is not None),
        aliases=model.aliases,
        max_tokens=model.text.max_tokens if model.text is not None else UNSET,
        dimensions=model.width if is_embedding else UNSET,
        supported_dimensions=tuple(sorted({model.width, *model.dimensions})) if model.dimensions else UNSET,
        tasks=model.text.variants if model.text is not None and model.text.variants else UNSET,
    )


LIST = Operation("get", "/v1/models", "listModels", "List models", list_models, ModelList)
RETRIEVE = Operation("get", "/v1/models/{id}", "retrieveModel", "Describe a model", retrieve, ModelObject)
OPERATIONS = (
    LIST,
    RETRIEVE,
    LIST.also("/models", "WithoutVersion"),
    RETRIEVE.also("/models/{id}", "WithoutVersion"),
    LIST.also("/openai/v1/models", "OfAzure"),
    RETRIEVE.also("/openai/v1/models/{id}", "OfAzure"),
)
