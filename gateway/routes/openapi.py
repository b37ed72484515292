"""GET /openapi.json, generated from the types that validate requests and write answers."""

from dataclasses import dataclass
from typing import Any

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway import __version__
from gateway.routes.embeddings import EmbeddingRequest, EmbeddingResponse
from gateway.routes.errors import ErrorResponse
from gateway.routes.health import Health
from gateway.routes.models import ModelList, ModelObject
from gateway.routes.rerank import RerankRequest, RerankResponse


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    id: str
    summary: str
    response: type[msgspec.Struct]
    request: type[msgspec.Struct] | None = None


OPERATIONS = (
    Operation(
        "post", "/v1/embeddings", "createEmbedding", "Embed texts and images", EmbeddingResponse, EmbeddingRequest
    ),
    Operation("post", "/v1/rerank", "rerank", "Rank documents by a query", RerankResponse, RerankRequest),
    Operation("get", "/v1/models", "listModels", "List models", ModelList),
    Operation("get", "/v1/models/{id}", "retrieveModel", "Describe a model", ModelObject),
    Operation("get", "/health/live", "live", "Whether the process answers", Health),
    Operation("get", "/health/ready", "ready", "Whether every model answers", Health),
)

COMPONENT = "#/components/schemas/{name}"


def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    types = {ErrorResponse, *(type_ for operation in OPERATIONS for type_ in (operation.request, operation.response))}
    _, schemas = msgspec.json.schema_components(types - {None}, ref_template=COMPONENT)
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _describe(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Conch", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],  # open where no keys are configured
    }


def _describe(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": operation.id,
        "responses": {
            "200": {"description": "Done", "content": _json(operation.response)},
            "default": {"description": "Failed", "content": _json(ErrorResponse)},
        },
    }
    if operation.request is not None:
        described["requestBody"] = {"required": True, "content": _json(operation.request)}
    if "{id}" in operation.path:
        described["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]
    return described


def _json(type_: type[msgspec.Struct]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": COMPONENT.format(name=type_.__name__)}}}


async def show(_: Request) -> Response:
    """Answer GET /openapi.json."""
    return Response(orjson.dumps(document()), media_type="application/json")
