"""Models with a vector for each token of pages and texts, served by a real Triton: from pixels to numbers."""

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from export.manifest import ModelSpec
from export.repository import build
from export.served.check import Gateway, check_served
from loadtest.tools import tiny_pages, tiny_vision
from loadtest.tools.pictures import file, scene
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


@pytest.mark.parametrize("name", ["pages", "messages"])
def test_vectors_of_patches_are_where_tokens_says(server: Server, name: str) -> None:
    """The score of a page is that of the vectors, and those of its grid are all that have the image's token."""
    picture, processor = scene(192, 128, 1), tiny_vision.images()
    ((_, height, width),) = processor(picture, return_tensors="np")["image_grid_thw"].tolist()
    grid = {"pages": (8, 8), "messages": (height // processor.merge_size, width // processor.merge_size)}[name]
    uri = f"data:image/png;base64,{base64.b64encode(file(picture, 'PNG')).decode()}"
    body = {"model": name, "embedding_type": "multi_vector", "return_tokens": True}
    with httpx2.Client(base_url=server.url, timeout=100) as client:

        def embed(given: Any, task: str) -> Any:
            return client.post("/v1/embeddings", json=body | {"input": given, "task": task}).json()["data"][0]

        query, page = embed("a shell", "query"), embed({"image": uri}, "document")
        asked = {"model": name, "query": "a shell", "documents": [{"image": uri}]}
        (ranked,) = client.post("/v1/rerank", json=asked).json()["results"]
    similarities = np.array(query["embedding"]) @ np.array(page["embedding"]).T
    assert similarities.max(1).mean() == pytest.approx(ranked["relevance_score"], abs=1e-6)
    ((found,),) = page["tokens"]["images"]
    assert (found["rows"], found["columns"], found["box"]) == (*grid, [0, 0, 1, 1])
    ids = np.array(page["tokens"]["ids"])
    places = np.flatnonzero(ids == ids[found["start"]])
    assert places.tolist() == list(range(found["start"], found["start"] + grid[0] * grid[1]))
    assert len(query["tokens"]["ids"]) == len(query["embedding"])
