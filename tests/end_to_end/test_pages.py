"""Models with a vector for each token of pages and texts, served by a real Triton: from pixels to numbers."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from export.manifest import ModelSpec
from export.repository import build
from export.served.check import Gateway, check_served
from loadtest.tools import tiny_pages
from tests.serving import Server, serve

pytestmark = pytest.mark.timeout(600)  # two exports, of two programs each


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, ModelSpec]:
    folder = tmp_path_factory.mktemp("sources")
    sources = {"pages": tiny_pages.write_colpali(folder / "a"), "messages": tiny_pages.write_chat(folder / "b")}
    return {
        name: ModelSpec(name=name, task="multi-vector", source=str(source), backend="torch", precision="fp32")
        for name, source in sources.items()
    }


@pytest.fixture(scope="module")
def server(specs: Mapping[str, ModelSpec], repository: Path) -> Iterator[Server]:
    for spec in specs.values():
        build(spec, repository, progress=print)
    with serve(repository) as running:
        yield running


@pytest.mark.parametrize("name", ["pages", "messages"])
def test_answers_are_those_of_the_library(
    server: Server, specs: Mapping[str, ModelSpec], repository: Path, name: str
) -> None:
    """Vectors of pages, texts and queries, and scores of pages and texts."""
    for entry in check_served(specs[name], repository, Gateway(server.url), lambda _: None):
        for one in entry.proof["parity"]:
            assert one["worst"] < 1e-6
