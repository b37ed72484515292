"""GET /openapi.json, generated from the types that validate requests and write answers."""

import re
from typing import Any

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway import __version__
from gateway.routes import cohere, embeddings, health, models, nim, rerank, tei
from gateway.routes.operation import SHARED, Operation

Schema = dict[str, Any]

OPERATIONS = (
    *embeddings.OPERATIONS,
    *rerank.OPERATIONS,
    *cohere.OPERATIONS,
    *nim.OPERATIONS,
    *tei.OPERATIONS,
    *models.OPERATIONS,
    *health.OPERATIONS,
)
"""All of the API."""
DOCUMENTED = tuple(operation for operation in OPERATIONS if operation.is_documented)

KEY = {"type": "http", "scheme": "bearer", "description": "One of GATEWAY_API_KEYS, where the server has any."}
AZURE_KEY = {
    "type": "apiKey",
    "in": "header",
    "name": "api-key",
    "description": "The same, as Azure's clients send it.",
}
NULL = {"type": "null"}
COMPONENT = "#/components/schemas/{name}"


def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    answers = [type_ for operation in DOCUMENTED for type_ in (operation.response, operation.dialect.body)]
    bodies = [operation.request for operation in DOCUMENTED if operation.request is not None]
    found, schemas = msgspec.json.schema_components(answers, ref_template=COMPONENT)
    asked, of_bodies = msgspec.json.schema_components(bodies, ref_template=COMPONENT)
    for schema in of_bodies.values():
        _as_it_is_read(schema)
    schemas.update(of_bodies)
    requests = iter(asked)
    described = iter(found)
    paths: dict[str, dict[str, Any]] = {}
    for operation in DOCUMENTED:
        response = next(described)
        request = next(requests) if operation.request is not None else None
        paths.setdefault(operation.path, {})[operation.method] = _describe(
            operation, response, request, next(described)
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Conch", "version": __version__},
        "tags": [{"name": tag} for tag in dict.fromkeys((SHARED, *(operation.tag for operation in DOCUMENTED)))],
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": KEY, "azureKey": AZURE_KEY}},
        "security": [{}, {"key": []}, {"azureKey": []}],  # open where no keys are configured
    }


def _as_it_is_read(schema: Schema) -> None:
    """Say of an object in a body what `decoding` does: unknown fields are left out, null means the default."""
    schema.pop("additionalProperties", None)
    properties = schema.get("properties", {})
    for name in properties.keys() - set(schema.get("required", ())):
        annotations = {key: properties[name].pop(key) for key in ("default", "description") if key in properties[name]}
        choices = [choice for choice in properties[name].get("anyOf", [properties[name]]) if choice != NULL]
        properties[name] = {"anyOf": [*choices, NULL], **annotations}


def _describe(operation: Operation, response: Schema, request: Schema | None, error: Schema) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": operation.id,
        "tags": [operation.tag],
        "responses": {
            "200": {"description": "Done", "content": _json(response)},
            "default": {"description": "Failed", "content": _json(error)},
        },
    }
    if request is not None:
        content = _json(request)
        content["application/json"]["example"] = operation.example
        described["requestBody"] = {"required": True, "content": content}
    if not operation.needs_key:
        described["security"] = []
    if names := re.findall(r"\{(\w+)\}", operation.path):
        described["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    return described


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


async def show(_: Request) -> Response:
    return Response(orjson.dumps(document()), media_type="application/json")
