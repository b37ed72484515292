"""The table of dialects, and its list in the documentation."""

from pathlib import Path

import pytest
from msgspec.structs import fields

from gateway.routes.operation import Operation
from gateway.routes.table import DIALECTS, OPERATIONS
from loadtest.reports.dialects import section


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
