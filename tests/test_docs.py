"""The documents name what there is, and nothing else."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from export.manifest import ModelSpec
from gateway.errors import ERROR_SPECS
from gateway.routes.batches import BatchRequest
from gateway.routes.embeddings import NUMBER_TYPES, EmbeddingRequest
from gateway.routes.rerank import RerankRequest
from gateway.routes.vllm import ClassifyRequest, PoolingRequest, ScoreRequest
from loadtest.experiments.parity import CASES
from tests.routes import served

PAGES = {path: path.read_text() for path in (Path("README.md"), *sorted(Path("docs").glob("*.md")))}
README, API, MODELS = (PAGES[Path(name)] for name in ("README.md", "docs/api.md", "docs/models.md"))
FENCED = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)


def documented(heading: str) -> set[str]:
    """The first column of the table under a heading, which one page has."""
    (page,) = (text for text in PAGES.values() if f"\n{heading}\n" in text)
    section = page.partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


def links(page: Path) -> list[tuple[Path, str]]:
    """Files that a page links to, and the anchors in them."""
    found = re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", FENCED.sub("", PAGES[page]))
    return [((page.parent / target).resolve().relative_to(Path.cwd()) if target else page, to) for target, to in found]


def anchors(page: Path) -> set[str]:
    """Those of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", PAGES[page]), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_settings_page_lists_the_variables_that_are_read() -> None:
    read = set(re.findall(r"\bGATEWAY_[A-Z_]*[A-Z]\b", Path("gateway/settings.py").read_text()))
    read |= set(re.findall(r"\bTRITON_[A-Z_]*[A-Z]\b", Path("embedded/triton.py").read_text()))
    assert documented("## Settings") == read


@pytest.mark.parametrize(
    ("heading", "request_type"),
    [
        ("## POST /v1/embeddings", EmbeddingRequest),
        ("## POST /v1/rerank", RerankRequest),
        ("## POST /classify", ClassifyRequest),
        ("## POST /score", ScoreRequest),
        ("## POST /pooling", PoolingRequest),
        ("## POST /v1/batches", BatchRequest),
    ],
)
def test_api_page_lists_the_fields_of_each_request(heading: str, request_type: type[msgspec.Struct]) -> None:
    fields = {field.name for field in msgspec.structs.fields(request_type)}
    assert documented(heading) - {*NUMBER_TYPES, "sparse", "multi_vector"} == fields


def test_api_page_names_every_route_and_no_other() -> None:
    named = set(re.findall(r"(?<![\w/}.])/[\w{][\w/{}.-]*", API)) - {"/v1", "/v2", "/openai"}
    paths = {path for _, path in served() if not path.startswith("/pages/")}
    assert named >= paths - {"/", "/metrics"}  # the latter is for operators, and on their pages
    assert {path for path in named if path.startswith(("/v1", "/v2", "/openai"))} <= paths


def test_api_page_names_every_status_and_code() -> None:
    for answer in ERROR_SPECS.values():
        assert f"| {answer.status} | " + (f"`{answer.code}` |" if answer.code else "|") in API


def test_every_make_target_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", Path("Makefile").read_text(), re.MULTILINE))
    used = set(re.findall(r"(?:^|`)make ([a-z]+)", "\n".join(PAGES.values()), re.MULTILINE))
    assert used
    assert used <= targets


def test_models_page_lists_the_keys_of_a_table() -> None:
    fields = {field.name for field in msgspec.structs.fields(ModelSpec)}
    assert documented("## Keys of a table") == fields - {"name"}


def test_models_page_lists_every_family() -> None:
    table = MODELS.partition("<!-- parity: begin -->")[2].partition("<!-- parity: end -->")[0]
    for case in CASES:
        assert f"| {case.label} | {case.task}" in table


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, anchor in links(page):
        assert target.exists(), target
        assert not anchor or anchor in anchors(target), f"{target}#{anchor}"


def test_every_page_is_reached_from_the_readme() -> None:
    reached, new = set[Path](), {Path("README.md")}
    while new:
        reached |= new
        new = {target for page in new for target, _ in links(page) if target in PAGES} - reached
    assert reached == set(PAGES)


def test_the_readmes_model_table_is_the_manifests() -> None:
    for name in tomllib.loads(Path("export/models.toml").read_text()):
        assert f"| `{name}` |" in README
