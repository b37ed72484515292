"""The table of dialects: what holds in each of them, and its list in the documentation."""

from pathlib import Path

import httpx2
import pytest
from msgspec.structs import fields

from gateway.routes.operation import Operation
from gateway.routes.table import BATCHES, DIALECTS, OPERATIONS
from loadtest.reports.dialects import section
from tests.gateway.test_middleware import log_line
from tests.serving import Server

ABOUT_MODELS = {"/api/show", "/api/pull"}
"""Paths to which a model's name is posted, and nothing to compute."""
UNSERVED = {"/classify", "/embed_sparse", "/predict"}
"""Paths for models that are not among the default ones."""
ELSEWHERE = ABOUT_MODELS | UNSERVED | {operation.path for operation in BATCHES.operations}


def test_documentation_lists_what_each_dialect_supports() -> None:
    """`make dialects` writes it."""
    _, _, rest = Path("docs/api.md").read_text().partition("<!-- dialects: begin -->\n")
    listed, _, _ = rest.partition("<!-- dialects: end -->")
    assert listed == section()


def test_dialects_share_only_paths_that_there_are() -> None:
    paths = {operation.path for operation in OPERATIONS}
    for dialect in DIALECTS:
        assert paths >= {*dialect.shared}
        assert not {*dialect.shared} & {operation.path for operation in dialect.operations}


def test_each_operation_has_a_path_of_its_own() -> None:
    keys = [(operation.method, operation.path) for operation in OPERATIONS]
    assert len({*keys}) == len(keys)


@pytest.mark.parametrize("operation", [one for one in OPERATIONS if one.request], ids=lambda one: one.id)
def test_other_names_are_of_fields_that_there_are_and_no_field_is_refused(operation: Operation) -> None:
    assert operation.request is not None
    names = {field.encode_name for field in fields(operation.request)}
    aliases = getattr(operation.request, "aliases", {})
    assert names >= {*aliases} | {*aliases.values()}
    assert not names & {*getattr(operation.request, "refused", {})}


@pytest.mark.parametrize(
    "operation",
    [one for one in OPERATIONS if one.example is not None and one.path not in ELSEWHERE],
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
