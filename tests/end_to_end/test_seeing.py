"""Models of texts and images together, or of images of any shape, served by a real Triton: from pixels to numbers."""

import base64
import io
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from export.manifest import ModelSpec, Task
from export.repository import build
from export.served.check import Gateway, check_served
from loadtest.tools import tiny, tiny_tiles, tiny_vision
from loadtest.tools.servers import counted
from tests.serving import Server, start

pytestmark = pytest.mark.timeout(900)  # four exports, three of them of two programs

SOURCES: Mapping[str, tuple[Task, Callable[[Path], Path]]] = {
    "seeing": ("text-embedding", partial(tiny_vision.write_embedding, name="Qwen3-VL")),
    "judging": ("cross-encoder", partial(tiny_vision.write_reranker, name="Qwen2.5-VL")),
    "tiles": ("multi-vector", tiny_tiles.write_colmodernvbert),
    "shapes": ("image-text", partial(tiny.write_image_text, name="SigLIP 2")),
}
"""The task and the source of each model: images by budgets of pixels, in tiles, and of any shape."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, ModelSpec]:
    folder = tmp_path_factory.mktemp("sources")
    return {
        name: ModelSpec(
            name=name,
            task=task,
            source=str(write(folder / name)),
            backend="torch",
            precision="fp32",
            dimensions=(8,) if name == "seeing" else (),
        )
        for name, (task, write) in SOURCES.items()
    }


@pytest.fixture(scope="module")
def server(specs: Mapping[str, ModelSpec], repository: Path) -> Iterator[Server]:
    for spec in specs.values():
        build(spec, repository, progress=print)
    with start(repository, GATEWAY_REQUEST_TIMEOUT="100") as running:  # of a slow machine
        running.wait_for("ready on http")
        yield running


@pytest.mark.parametrize("name", SOURCES)
def test_answers_are_those_of_the_library(
    server: Server, specs: Mapping[str, ModelSpec], repository: Path, name: str
) -> None:
    """Texts, images and pages, alone and together in every order."""
    for entry in check_served(specs[name], repository, Gateway(server.url), lambda _: None):
        for one in entry.proof["parity"]:
            assert one["worst"] < 1e-6


def embed(client: httpx2.Client, item: Mapping[str, str]) -> NDArray[np.float32]:
    response = client.post("/v1/embeddings", json={"input": [item], "model": "seeing"})
    assert response.status_code == 200, response.text
    answer: Any = response.json()
    return np.array([one["embedding"] for one in answer["data"]], np.float32)


def picture(width: int, height: int) -> str:
    """An image of noise, as the URL that holds it."""
    noise = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def test_requests_of_many_clients_are_what_they_are_alone(server: Server) -> None:
    """64 at a time: texts, images and both, of many sizes. All of them are so small that no machine is too slow."""
    items = []
    for i in range(64):
        text, image = "word " * (1 + 7 * i % 20), picture(16 + 5 * i % 17, 16 + 3 * i % 13)
        items.append([{"text": text}, {"image": image}, {"text": text, "image": image}][i % 3])
    with httpx2.Client(base_url=server.url, timeout=100) as client:
        alone = np.concatenate([embed(client, item) for item in items])
        before = counted(server.ports["TRITON_METRICS_PORT"], "seeing")
        with ThreadPoolExecutor(len(items)) as pool:
            together = np.concatenate(list(pool.map(lambda item: embed(client, item), items)))
    after = counted(server.ports["TRITON_METRICS_PORT"], "seeing")
    rows, executions = (after[name] - before[name] for name in ("rows", "executions"))
    assert rows / executions > 1.5
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)


def test_vectors_of_texts_and_images_may_be_cut(server: Server) -> None:
    body = {"input": [{"text": "a shell", "image": picture(40, 24)}], "model": "seeing"}
    with httpx2.Client(base_url=server.url, timeout=100) as client:
        whole, short = (
            np.array(client.post("/v1/embeddings", json=body | more).json()["data"][0]["embedding"])
            for more in ({}, {"dimensions": 8})
        )
    np.testing.assert_allclose(short, whole[:8] / np.linalg.norm(whole[:8]), atol=1e-6)


def test_vectors_of_patches_are_where_tokens_says(server: Server) -> None:
    """The score of a page is that of the vectors, and those of its grids are all that have the image's token."""
    body = {"model": "tiles", "embedding_type": "multi_vector", "return_tokens": True}
    page = {"image": picture(192, 128)}
    with httpx2.Client(base_url=server.url, timeout=100) as client:

        def embed(given: Any, task: str) -> Any:
            return client.post("/v1/embeddings", json=body | {"input": given, "task": task}).json()["data"][0]

        query, document = embed("a shell", "query"), embed(page, "document")
        asked = {"model": "tiles", "query": "a shell", "documents": [page]}
        (ranked,) = client.post("/v1/rerank", json=asked).json()["results"]
    similarities = np.array(query["embedding"]) @ np.array(document["embedding"]).T
    assert similarities.max(1).mean() == pytest.approx(ranked["relevance_score"], abs=1e-6)
    (grids,) = document["tokens"]["images"]
    assert [(grid["rows"], grid["columns"]) for grid in grids] == [(2, 2)] * 7
    tiles = [(column / 3, row / 2, (column + 1) / 3, (row + 1) / 2) for row in range(2) for column in range(3)]
    np.testing.assert_allclose([grid["box"] for grid in grids], [*tiles, (0.0, 0.0, 1.0, 1.0)])
    ids = np.array(document["tokens"]["ids"])
    places = np.flatnonzero(ids == ids[grids[0]["start"]])
    assert places.tolist() == [grid["start"] + i for grid in grids for i in range(4)]
    assert len(query["tokens"]["ids"]) == len(query["embedding"])
