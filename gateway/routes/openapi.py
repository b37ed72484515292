"""GET /openapi.json, generated from the types that validate requests and write responses."""

import json
import re
from typing import Any

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway import __version__
from gateway.routes.operation import Dialect, Operation
from gateway.routes.table import DIALECTS, DOCUMENTED

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
    response_types = [type_ for one, dialect in DOCUMENTED for type_ in (one.response, dialect.error_format.body)]
    request_types = [operation.request for operation, _ in DOCUMENTED if operation.request is not None]
    response_schemas, schemas = msgspec.json.schema_components(response_types, ref_template=COMPONENT)
    request_schemas, in_requests = msgspec.json.schema_components(request_types, ref_template=COMPONENT)
    for schema in in_requests.values():
        _relax(schema)
    schemas.update(in_requests)
    requests, responses = iter(request_schemas), iter(response_schemas)
    paths: dict[str, dict[str, Any]] = {}
    for operation, dialect in DOCUMENTED:
        response, error = next(responses), next(responses)
        request = next(requests) if operation.request is not None else None
        described = _describe(operation, dialect, response, request, error)
        paths.setdefault(operation.path, {})[operation.method] = described
    return {
        "openapi": "3.1.0",
        "info": {"title": "Conch", "version": __version__},
        "tags": [{"name": dialect.name} for dialect in DIALECTS],
        "paths": portable(paths),
        "components": {"schemas": portable(schemas), "securitySchemes": {"key": KEY, "azureKey": AZURE_KEY}},
        "security": [{}, {"key": []}, {"azureKey": []}],  # the server may have no keys
    }


def _relax(schema: Schema) -> None:
    """Describe the tolerance of `decoding` for objects in requests: unknown fields are ignored, null means the
    default.

    Defaults are told in words: openapi-typescript requires of callers every field that has one.
    """
    schema.pop("additionalProperties", None)
    properties = schema.get("properties", {})
    for name in properties.keys() - set(schema.get("required", ())):
        default, description = (properties[name].pop(key, None) for key in ("default", "description"))
        told = description if default is None else f"{description or ''} Default: {json.dumps(default)}.".lstrip()
        choices = [choice for choice in properties[name].get("anyOf", [properties[name]]) if choice != NULL]
        properties[name] = {"anyOf": [*choices, NULL], **({"description": told} if told else {})}


def portable(schema: Schema) -> Schema:
    """The same values, described so that every generator of clients can read them and name them.

    Generators make a class of an enum and a member of each value: of strings only, and of names that differ in more
    than case. Some do not know `items: false`, which `maxItems` says already.
    """
    described: Schema = {}
    for key, part in schema.items():
        if isinstance(part, dict):
            described[key] = portable(part)
        elif isinstance(part, list):
            described[key] = [portable(one) if isinstance(one, dict) else one for one in part]
        elif not (key == "items" and part is False):
            described[key] = part
    if isinstance(values := described.get("enum"), list):
        del described["enum"]
        choices = _apart(values)
        described = described | (choices[0] if len(choices) == 1 else {"anyOf": choices})
    if isinstance(described.get("anyOf"), list):  # choices of a choice are choices
        described["anyOf"] = [
            one
            for choice in described["anyOf"]
            for one in (choice["anyOf"] if choice.keys() == {"anyOf"} else [choice])
        ]
    return described


def _apart(values: list[Any]) -> list[Schema]:
    """Enums of strings whose names differ, and a constant for each value that is no string."""
    enums: list[dict[str, str]] = []
    for value in values:
        if isinstance(value, str):
            name = re.sub(r"\W+", "_", value).casefold()
            enum = next((enum for enum in enums if name not in enum), None)
            if enum is None:
                enums.append({name: value})
            else:
                enum[name] = value
    others = [{"const": value} for value in values if not isinstance(value, str)]
    return [*({"enum": [*enum.values()]} for enum in enums), *others]


def _describe(
    operation: Operation, dialect: Dialect, response: Schema, request: Schema | None, error: Schema
) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": operation.id,
        "tags": [dialect.name],
        "responses": {
            "200": {"description": "Success", "content": {operation.gives: {"schema": response}}},
            "default": {"description": "Error", "content": {"application/json": {"schema": error}}},
        },
    }
    if operation.also_gives is not None:
        described["responses"]["200"]["content"][operation.also_gives] = {}
    if request is not None:
        example = {"example": operation.example} if operation.example is not None else {}
        described["requestBody"] = {"required": True, "content": {operation.takes: {"schema": request, **example}}}
    if not operation.needs_key:
        described["security"] = []
    parameters: list[Schema] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", operation.path)
    ]
    if operation.query is not None:
        (described_query,) = msgspec.json.schema(operation.query)["$defs"].values()
        parameters += [
            {"name": name, "in": "query", "schema": schema} for name, schema in described_query["properties"].items()
        ]
    if parameters:
        described["parameters"] = parameters
    return described


async def show(_: Request) -> Response:
    return Response(orjson.dumps(document()), media_type="application/json")
