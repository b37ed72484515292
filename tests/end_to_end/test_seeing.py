"""Models that read texts and images together, served by a real Triton: from pixels and text to numbers."""

import base64
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray

from export.manifest import ModelSpec
from export.repository import build
from export.served.check import Gateway, check_served
from export.verification import samples
from loadtest.tools import tiny_vision
from loadtest.tools.servers import counted
from tests.serving import Server, serve

pytestmark = pytest.mark.timeout(600)  # two exports, of two programs each


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, ModelSpec]:
    folder = tmp_path_factory.mktemp("sources")
    embedding = str(tiny_vision.write_embedding(folder / "seeing", "Qwen3-VL"))
    reranker = str(tiny_vision.write_reranker(folder / "judging", "Qwen2.5-VL"))
    return {
        "seeing": ModelSpec(
            name="seeing", task="text-embedding", source=embedding, backend="torch", precision="fp32", dimensions=(8,)
        ),
        "judging": ModelSpec(name="judging", task="cross-encoder", source=reranker, backend="torch", precision="fp32"),
    }


@pytest.fixture(scope="module")
def server(specs: Mapping[str, ModelSpec], repository: Path) -> Iterator[Server]:
    for spec in specs.values():
        build(spec, repository, progress=print)
    with serve(repository, GATEWAY_REQUEST_TIMEOUT="100") as running:  # 64 requests wait on a slow machine
        yield running


@pytest.mark.parametrize("name", ["seeing", "judging"])
def test_answers_are_those_of_the_library(
    server: Server, specs: Mapping[str, ModelSpec], repository: Path, name: str
) -> None:
    """Texts, images, and both in every order."""
    for entry in check_served(specs[name], repository, Gateway(server.url), lambda _: None):
        for one in entry.proof["parity"]:
            assert one["worst"] < 1e-6


def embed(client: httpx2.Client, item: Mapping[str, str]) -> NDArray[np.float32]:
    response = client.post("/v1/embeddings", json={"input": [item], "model": "seeing"})
    assert response.status_code == 200, response.text
    answer: Any = response.json()
    return np.array([one["embedding"] for one in answer["data"]], np.float32)


def test_requests_of_many_clients_are_what_they_are_alone(server: Server) -> None:
    """64 at a time: texts, images and both, of many sizes."""
    images = [f"data:{file.media_type};base64,{base64.b64encode(file.content).decode()}" for file in samples.files()]
    items = []
    for i in range(64):
        text, image = "word " * (1 + 7 * i % 20), images[i % len(images)]
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
    (file, *_) = samples.files()
    image = f"data:{file.media_type};base64,{base64.b64encode(file.content).decode()}"
    body = {"input": [{"text": "a shell", "image": image}], "model": "seeing"}
    with httpx2.Client(base_url=server.url, timeout=100) as client:
        whole, short = (
            np.array(client.post("/v1/embeddings", json=body | more).json()["data"][0]["embedding"])
            for more in ({}, {"dimensions": 8})
        )
    np.testing.assert_allclose(short, whole[:8] / np.linalg.norm(whole[:8]), atol=1e-6)
