"""The tables of docs/api.md that say which dialect takes which field."""

from pathlib import Path

import pytest
from msgspec import Struct
from msgspec.structs import fields

from gateway.routes.cohere import EmbedRequest, V1EmbedRequest, V2RerankRequest
from gateway.routes.embeddings import EmbeddingRequest
from gateway.routes.rerank import RerankRequest
from gateway.routes.tei import TeiEmbedRequest, TeiRerankRequest


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
