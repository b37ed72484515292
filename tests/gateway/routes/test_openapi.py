import httpx2
from openapi_spec_validator import validate

from gateway.routes.openapi import document


def test_document_is_valid_openapi() -> None:
    validate(document())


def test_every_route_is_in_the_document(client: httpx2.Client) -> None:
    served = client.get("/openapi.json").json()
    assert served == document()
    for path, methods in served["paths"].items():
        for method in methods:
            response = client.request(method, path.replace("{id}", "all-minilm-l6-v2"))
            assert response.status_code in {200, 400}, path


def test_request_schema_refuses_unknown_fields_as_the_server_does() -> None:
    schema = document()["components"]["schemas"]["EmbeddingRequest"]
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["input"]
