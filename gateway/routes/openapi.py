"""GET /openapi.json, generated from the types that validate requests and write responses."""

import re
from typing import Any

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway import __version__
from gateway.routes.operation import SHARED, Operation
from gateway.routes.table import DOCUMENTED

Schema = dict[str, Any]

KEY = {"type": "http", "scheme": "bearer", "description": "An API key of the server, if it requires one."}
AZURE_KEY = {
    "type": "apiKey",
    "in": "header",
    "name": "api-key",
    "description": "An API key of the server, as Azure's clients send it.",
}
NULL = {"type": "null"}
COMPONENT = "#/components/schemas/{name}"


def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    response_types = [type_ for operation in DOCUMENTED for type_ in (operation.response, operation.dialect.body)]
    request_types = [operation.request for operation in DOCUMENTED if operation.request is not None]
    response_schemas, schemas = msgspec.json.schema_components(response_types, ref_template=COMPONENT)
    request_schemas, in_requests = msgspec.json.schema_components(request_types, ref_template=COMPONENT)
    for schema in in_requests.values():
        _relax(schema)
    schemas.update(in_requests)
    requests, responses = iter(request_schemas), iter(response_schemas)
    paths: dict[str, dict[str, Any]] = {}
    for operation in DOCUMENTED:
        response, error = next(responses), next(responses)
        request = next(requests) if operation.request is not None else None
        paths.setdefault(operation.path, {})[operation.method] = _describe(operation, response, request, error)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Conch", "version": __version__},
        "tags": [{"name": tag} for tag in dict.fromkeys((SHARED, *(operation.tag for operation in DOCUMENTED)))],
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": KEY, "azureKey": AZURE_KEY}},
        "security": [{}, {"key": []}, {"azureKey": []}],  # the server may have no keys
    }


def _relax(schema: Schema) -> None:
    """Describe the tolerance of `decoding` for objects in requests: unknown fields are ignored, null means the
    default."""
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
            "200": {"description": "Success", "content": _json(response)},
            "default": {"description": "Error", "content": _json(error)},
        },
    }
    if operation.media_type is not None:
        described["responses"]["200"]["content"][operation.media_type] = {}
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
