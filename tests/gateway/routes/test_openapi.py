import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from openapi_spec_validator import validate

from gateway.routes.openapi import document, portable
from gateway.routes.operation import Operation
from gateway.routes.table import BATCHES, OPERATIONS
from tests.routes import served

WITH_EXAMPLE = [one for one in OPERATIONS if one.request and one not in BATCHES.operations]
"""Batches are off by default."""


def test_document_is_valid_openapi() -> None:
    validate(document())


def test_every_route_is_in_the_document() -> None:
    documented = {(method, path) for path, methods in document()["paths"].items() for method in methods}
    pages = {one for one in served() if one[1] in ("/", "/docs") or one[1].startswith("/pages/")} - documented
    others = {("get", "/metrics"), ("get", "/openapi.json")}
    missing = {(one.method, one.path) for one in OPERATIONS if not one.is_documented}
    assert documented == served() - pages - others - missing


def test_every_path_of_the_document_answers(client: httpx2.Client) -> None:
    served = client.get("/openapi.json").json()
    assert served == document()
    for path, methods in served["paths"].items():
        for method in methods:
            response = client.request(method, re.sub(r"{\w+}", "all-minilm-l6-v2", path))
            is_off = response.status_code == 404 and "GATEWAY_BATCH_FOLDER" in response.text
            assert response.status_code in {200, 400} or is_off, path


def test_request_schema_allows_unknown_fields_as_the_server_does() -> None:
    schema = document()["components"]["schemas"]["RerankRequest"]
    assert "additionalProperties" not in schema
    assert schema["required"] == ["query", "documents"]


def test_request_schema_allows_null_where_a_field_may_be_left_out() -> None:
    schema = document()["components"]["schemas"]["SimilarityParameters"]
    assert schema["properties"]["truncation_direction"] == {
        "anyOf": [{"enum": ["Left", "Right"]}, {"enum": ["left", "right"]}, {"type": "null"}],
        "description": 'Default: "Right".',
    }
    assert schema["properties"]["prompt_name"] == {"anyOf": [{"type": "string"}, {"type": "null"}]}


def test_generators_of_clients_can_name_all_there_is() -> None:
    """They make a member of each value of an enum, and a module of each operation. `make compat` runs two of them."""

    def schemas(part: Any) -> Iterator[dict[str, Any]]:
        if isinstance(part, dict):
            yield part
        for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            yield from schemas(inner)

    described = document()
    for schema in schemas(described):
        if isinstance(values := schema.get("enum"), list):
            assert len({re.sub(r"\W", "_", value).casefold() for value in values}) == len(values)
        assert not isinstance(schema.get("items"), bool)
    ids = [operation["operationId"] for methods in described["paths"].values() for operation in methods.values()]
    assert len({re.sub(r"\W", "", one).casefold() for one in ids}) == len(ids)


def test_typescript_requires_no_field_of_a_request_that_has_a_default() -> None:
    schema = document()["components"]["schemas"]["TeiEmbedRequest"]
    assert schema["required"] == ["inputs"]
    assert not any("default" in field for field in schema["properties"].values())


def test_values_that_generators_cannot_name_together_are_apart() -> None:
    values = ["left", "no", False, "LEFT", "right", -1]
    apart = [{"enum": ["left", "no", "right"]}, {"enum": ["LEFT"]}, {"const": False}, {"const": -1}]
    assert portable({"enum": values, "description": "a"}) == {"anyOf": apart, "description": "a"}
    assert portable({"enum": [True]}) == {"const": True}
    assert portable({"anyOf": [{"enum": values}, {"type": "null"}]}) == {"anyOf": [*apart, {"type": "null"}]}
    pair = {"type": "array", "prefixItems": [{"enum": ["a"]}], "maxItems": 1}
    assert portable(pair | {"items": False}) == pair
    named = {"properties": {"enum": {"type": "string"}, "items": {"enum": ["a", "b"]}}}
    assert portable(named) == named


@pytest.mark.parametrize("operation", WITH_EXAMPLE, ids=lambda operation: operation.id)
def test_example_is_answered_by_the_default_models(client: httpx2.Client, operation: Operation) -> None:
    path = operation.path.replace("{model}", "all-minilm-l6-v2")
    answer = client.post(path, json=operation.example)
    if operation.path in {"/classify", "/embed_sparse", "/predict"}:  # by models of which there is none
        assert "there is no default model for this endpoint" in answer.text
    else:
        assert answer.status_code == 200, answer.text


def test_parameters_of_a_query_are_in_the_document() -> None:
    (limit,) = (one for one in document()["paths"]["/v1/batches"]["get"]["parameters"] if one["name"] == "limit")
    assert limit["in"] == "query"
    assert (limit["schema"]["minimum"], limit["schema"]["maximum"], limit["schema"]["default"]) == (1, 100, 20)


def test_files_are_forms_and_json_lines_in_the_document() -> None:
    paths = document()["paths"]
    form = paths["/v1/files"]["post"]["requestBody"]["content"]
    assert form.keys() == {"multipart/form-data"}
    assert document()["components"]["schemas"]["FileUpload"]["properties"]["file"]["format"] == "binary"
    download = paths["/v1/files/{file_id}/content"]["get"]["responses"]["200"]["content"]
    assert download == {"application/jsonl": {"schema": {"type": "string", "format": "binary"}}}
