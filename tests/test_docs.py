"""The documents name what there is, and nothing else."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from export.manifest import ModelSpec
from gateway.errors import ANSWERS
from gateway.routes.embeddings import EmbeddingRequest
from gateway.routes.openapi import OPERATIONS
from gateway.routes.rerank import RerankRequest
from loadtest.experiments.parity import CASES

PAGES = ("README.md", "docs/api.md", "docs/models.md", "docs/configuration.md")
README, API, MODELS, CONFIGURATION = (Path(name).read_text() for name in PAGES)


def documented(page: str, heading: str) -> set[str]:
    """The first column of the table under a heading."""
    section = page.partition(heading)[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


def test_settings_page_lists_the_variables_that_are_read() -> None:
    read = set(re.findall(r"\bGATEWAY_[A-Z_]*[A-Z]\b", Path("gateway/settings.py").read_text()))
    read |= set(re.findall(r"\bTRITON_[A-Z_]*[A-Z]\b", Path("embedded/triton.py").read_text()))
    assert documented(CONFIGURATION, "## Settings") == read


@pytest.mark.parametrize(
    ("heading", "request_type"),
    [("## POST /v1/embeddings", EmbeddingRequest), ("## POST /v1/rerank", RerankRequest)],
)
def test_api_page_lists_the_fields_of_each_request(heading: str, request_type: type[msgspec.Struct]) -> None:
    fields = {field.name for field in msgspec.structs.fields(request_type)}
    assert documented(API, heading) - {"float", "base64", "int8", "uint8", "binary", "ubinary"} == fields


def test_api_page_names_every_route_status_and_code() -> None:
    for operation in OPERATIONS:
        assert operation.path in API
    for answer in ANSWERS.values():
        assert f"| {answer.status} | " + (f"`{answer.code}` |" if answer.code else "|") in API


def test_every_make_target_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", Path("Makefile").read_text(), re.MULTILINE))
    used = set(re.findall(r"(?:^|`)make ([a-z]+)", README + MODELS + CONFIGURATION, re.MULTILINE))
    assert used
    assert used <= targets


def test_models_page_lists_the_keys_of_a_table() -> None:
    fields = {field.name for field in msgspec.structs.fields(ModelSpec)}
    assert documented(MODELS, "## Keys of a table") == fields - {"name"}


def test_models_page_lists_every_family() -> None:
    table = MODELS.partition("<!-- parity: begin -->")[2].partition("<!-- parity: end -->")[0]
    for case in CASES:
        assert f"| {case.label} | {case.task}" in table


def test_every_link_in_the_documents_leads_somewhere() -> None:
    for page in (Path("README.md"), *Path("docs").glob("*.md")):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_readmes_model_table_is_the_manifests() -> None:
    for name in tomllib.loads(Path("export/models.toml").read_text()):
        assert f"| `{name}` |" in README
