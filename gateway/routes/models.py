"""GET /v1/models and /v1/models/{id}: OpenAI's format, with additional fields."""

from typing import Literal

from msgspec import UNSET, Struct, UnsetType
from starlette.responses import Response

from gateway.catalog import OFFERED_BY, OFFERS, Model, TextModel
from gateway.contract import CLASSIFIER_ROLES, CROSS_ENCODER, EMBEDDING_ROLES
from gateway.images.processors import Smart
from gateway.routes.calls import find_model
from gateway.routes.http import Request, json_response
from gateway.routes.operation import Operation


class ImageLimits(Struct):
    """How a model reads images."""

    max: int
    """How many an input may have."""
    with_text: bool
    """Whether an input may have texts beside them."""
    in_queries: bool
    """Whether a query to rank by may have some."""
    min_pixels: int | UnsetType = UNSET
    """The least pixels that images are enlarged to; absent if the model has no such limits."""
    max_pixels: int | UnsetType = UNSET
    """The most pixels that images are shrunk to."""


class ModelObject(Struct, omit_defaults=True):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    """The Unix time when this server first found the model."""
    owned_by: str
    role: str
    model_type: Literal["embedding", "rerank", "classification"]
    """For Xinference's clients."""
    input_modalities: tuple[str, ...]
    """The types of input: "text", "image"."""
    aliases: tuple[str, ...]
    default: bool
    """Whether it answers requests that name no model, as far as it computes what they ask for."""
    max_tokens: int | UnsetType = UNSET
    """The longest text; absent for models that take images only."""
    vectors: tuple[str, ...] | UnsetType = UNSET
    """The kinds of vectors that it computes: "dense", "sparse", "multi_vector"."""
    dimensions: int | UnsetType = UNSET
    """The size of its dense vectors, or else of its token vectors."""
    vocabulary_size: int | UnsetType = UNSET
    """The size of its sparse vectors: their indices are below it."""
    supported_dimensions: tuple[int, ...] | UnsetType = UNSET
    """The values that `dimensions` of a request may have, if there are several."""
    tasks: tuple[str, ...] | UnsetType = UNSET
    """The variants of the model that `task` of a request selects, the default first."""
    images: ImageLimits | UnsetType = UNSET
    """Present if it reads texts and images together."""
    max_model_len: int | UnsetType = UNSET
    """The same as max_tokens, for clients of vLLM."""
    labels: tuple[str, ...] | UnsetType = UNSET
    """The labels of a classifier, in the order of its logits."""


class ModelList(Struct):
    """The models that are served."""

    object: Literal["list"]
    data: list[ModelObject]


async def list_models(request: Request) -> Response:
    """Answer GET /v1/models."""
    models = request.state["gateway"].catalog.models
    return json_response(ModelList(object="list", data=[_describe(model) for model in models]))


async def retrieve(request: Request) -> Response:
    """Answer GET /v1/models/{id}; the id may be an alias."""
    return json_response(_describe(find_model(request, request.path_params["id"], OFFERS)))


def _describe(model: Model) -> ModelObject:
    role = model.triton_models[0].role
    max_tokens = model.text.max_tokens if model.text is not None else UNSET
    kinds = tuple(kind for kind in OFFERED_BY if kind in model.offers)
    return ModelObject(
        id=model.name,
        object="model",
        created=model.created,
        owned_by="conch",
        role=model.role,
        model_type="embedding"
        if role in EMBEDDING_ROLES or "dense" in model.offers
        else "classification"
        if role in CLASSIFIER_ROLES
        else "rerank",
        input_modalities=("text",) * (model.text is not None) + ("image",) * model.accepts_images,
        aliases=model.aliases,
        default=model.default,
        max_tokens=max_tokens,
        max_model_len=max_tokens,
        vectors=kinds or UNSET,
        dimensions=model.width if {"dense", "multi_vector"} & {*kinds} else UNSET,
        vocabulary_size=model.text.vocabulary_size if "sparse" in kinds and model.text is not None else UNSET,
        supported_dimensions=tuple(sorted({model.width, *model.dimensions})) if model.dimensions else UNSET,
        images=_images(model.text),
        labels=model.text.labels if role in CLASSIFIER_ROLES and model.text is not None else UNSET,
        tasks=model.text.variants if model.text is not None and model.text.variants else UNSET,
    )


def _images(model: TextModel | None) -> ImageLimits | UnsetType:
    if model is None or model.images is None:
        return UNSET
    processor = model.images.processor
    limits = (processor.min_pixels, processor.max_pixels) if isinstance(processor, Smart) else (UNSET, UNSET)
    with_text = model.chat is None or not model.chat.document_text
    return ImageLimits(model.images.most, with_text, model.role == CROSS_ENCODER, *limits)


LIST = Operation("get", "/v1/models", "listModels", "List the models", list_models, ModelList)
RETRIEVE = Operation("get", "/v1/models/{id}", "retrieveModel", "Describe a model", retrieve, ModelObject)
OPERATIONS = (
    LIST,
    RETRIEVE,
    LIST.also("/models", "WithoutVersion"),
    RETRIEVE.also("/models/{id}", "WithoutVersion"),
    LIST.also("/openai/v1/models", "OfAzure"),
    RETRIEVE.also("/openai/v1/models/{id}", "OfAzure"),
)
