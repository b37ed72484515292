"""Models of the torch backend, served by a real Triton: every role, from text to number, on a machine without a GPU."""

import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray

from export.manifest import ModelSpec, Task
from export.repository import build
from export.served.check import Gateway, check_served
from loadtest.tools import tiny
from tests.serving import Server, serve

EXPANSION = {"strategy": "fixed", "length": 32}
SOURCES: Mapping[str, tuple[Task, Callable[[Path], Path]]] = {
    "embedding": ("text-embedding", partial(tiny.write_embedding, name="ModernBERT")),
    "biased": ("text-embedding", partial(tiny.write_embedding, name="T5")),  # padded in attention
    "cross": ("cross-encoder", tiny.write_cross_encoder),
    "late": ("multi-vector", partial(tiny.write_multi_vector, name="ModernBERT", query_expansion=EXPANSION)),
    "pictures": ("image-text", partial(tiny.write_image_text, name="CLIP")),
}
"""The task and the writer of each model."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, ModelSpec]:
    return {
        name: ModelSpec(
            name=name,
            task=task,
            source=str(write(tmp_path_factory.mktemp(name))),
            backend="torch",
            precision="fp32",
            default=name == "embedding",
        )
        for name, (task, write) in SOURCES.items()
    }


@pytest.fixture(scope="module")
def server(specs: Mapping[str, ModelSpec], repository: Path) -> Iterator[Server]:
    for spec in specs.values():
        build(spec, repository, progress=print)
    with serve(repository) as running:
        yield running


@pytest.mark.parametrize("name", SOURCES)
def test_answers_are_those_of_the_library(
    server: Server, specs: Mapping[str, ModelSpec], repository: Path, name: str
) -> None:
    # It raises where one is beyond the tolerance, and here they are far within it.
    for entry in check_served(specs[name], repository, Gateway(server.url), lambda _: None):
        for one in entry.proof["parity"]:
            assert one["worst"] < 1e-5


def embed(client: httpx2.Client, texts: list[str]) -> NDArray[np.float32]:
    response = client.post("/v1/embeddings", json={"input": texts, "model": "embedding"})
    assert response.status_code == 200, response.text
    answer: Any = response.json()
    return np.array([item["embedding"] for item in answer["data"]], np.float32)


def test_texts_of_many_clients_are_what_they_are_alone(server: Server) -> None:
    texts = ["word " * (1 + 7 * i % 20) for i in range(48)]
    with httpx2.Client(base_url=server.url, timeout=60) as client:
        alone = np.concatenate([embed(client, [text]) for text in texts])
        batches = [texts[i : i + 1 + i % 3] for i in range(len(texts))]
        with ThreadPoolExecutor(16) as pool:
            together = list(pool.map(lambda batch: embed(client, batch), batches))
    for i, vectors in enumerate(together):
        np.testing.assert_allclose(vectors, alone[i : i + len(vectors)], atol=1e-6)


def test_log_says_how_each_model_computes(server: Server) -> None:
    (log,) = re.findall(r"\(log: (.+)\)", "".join(server.lines))
    said = re.findall(r"([\w-]+) computes in fp32 on a CPU, not compiled, because there is no", Path(log).read_text())
    assert sorted(said) == ["biased", "cross", "embedding", "late", "pictures-image", "pictures-text"]
