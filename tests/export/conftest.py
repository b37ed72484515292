"""One tiny model that many tests look at, exported once."""

from pathlib import Path

import pytest

from export.graphs import trace
from export.manifest import ModelSpec
from export.tasks import text_embedding
from export.tower import Tower
from loadtest.tools import tiny


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """The table of an embedding model, a folder of sentence-transformers."""
    source = tiny.write_embedding(tmp_path_factory.mktemp("bert"))
    return ModelSpec(name="tiny", task="text-embedding", source=str(source))


@pytest.fixture(scope="session")
def bert_tower(bert: ModelSpec) -> Tower:
    """What it becomes."""
    (tower,) = text_embedding.load(bert, Path(bert.source))
    return tower


@pytest.fixture(scope="session")
def bert_graph(bert_tower: Tower, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its ragged graph in fp32."""
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    trace.trace(bert_tower, path, ragged=True)
    return path
