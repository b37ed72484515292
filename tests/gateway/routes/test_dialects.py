"""What holds in every dialect: its requests are recorded, and docs/api.md says which fields it takes."""

from pathlib import Path

import httpx2
import pytest
from msgspec import Struct
from msgspec.structs import fields

from gateway.routes.cohere import EmbedRequest, V1EmbedRequest, V2RerankRequest
from gateway.routes.embeddings import EmbeddingRequest
from gateway.routes.operation import Operation
from gateway.routes.rerank import RerankRequest
from gateway.routes.table import OPERATIONS
from gateway.routes.tei import TeiEmbedRequest, TeiRerankRequest
from tests.gateway.test_middleware import log_line
from tests.serving import Server

ABOUT_MODELS = {"/api/show", "/api/pull"}
"""Paths to which a model's name is posted, and nothing to compute."""
UNSERVED = {"/classify", "/embed_sparse", "/predict"}
"""Paths for models that are not among the default ones."""


@pytest.mark.parametrize(
    ("head", "types"),
    [
        (
            "| field | `/v1/embeddings` | `/v2/embed` (Cohere) | `/v1/embed` (Cohere) | `/embed` (TEI) |",
            (EmbeddingRequest, EmbedRequest, V1EmbedRequest, TeiEmbedRequest),
        ),
        (
            "| field | `/v1/rerank` | `/v2/rerank` (Cohere) | `/rerank` (TEI) |",
            (RerankRequest, V2RerankRequest, TeiRerankRequest),
        ),
    ],
)
def test_table_lists_the_fields_of_each_dialect(head: str, types: tuple[type[Struct], ...]) -> None:
    _, _, table = Path("docs/api.md").read_text().partition(head + "\n")
    rows = [row.strip("|").split("|") for row in table.partition("\n\n")[0].splitlines()[1:]]
    for column, type_ in enumerate(types, start=1):
        told = {row[0].strip().strip("`") for row in rows if row[column].strip() == "yes"}
        assert told == {field.encode_name for field in fields(type_)}, type_


@pytest.mark.parametrize(
    "operation",
    [one for one in OPERATIONS if one.example is not None and one.path not in ABOUT_MODELS | UNSERVED],
    ids=lambda operation: operation.id,
)
def test_request_is_recorded(client: httpx2.Client, server: Server, operation: Operation) -> None:
    path = operation.path.replace("{model}", "all-minilm-l6-v2")
    response = client.post(path, json=operation.example, headers={"x-request-id": f"recorded-{operation.id}"})
    assert response.status_code == 200
    line = log_line(server, f"recorded-{operation.id}")
    assert line["model"]
    for count in (line["inputs"], line["tokens"]):
        assert isinstance(count, int)
        assert count > 0
