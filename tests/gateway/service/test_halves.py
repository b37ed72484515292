"""Rows that have no room together, on a real Triton model that fails a whole batch as if it had no memory."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from tests.odd_models import MODEL
from tests.serving import serve

MOST_TOKENS = 60
"""Of one execution. A row of the model has up to 256."""
BEHAVIOUR = f"""
                if length.sum() > {MOST_TOKENS}:
                    raise MemoryError("no memory for these rows")
                result[:, 1] = length[:, 0]
"""
"""The second value of a vector, divided by the first, is the length of its row."""


@pytest.fixture(scope="module")
def client(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    folder = tmp_path_factory.mktemp("tight")
    default, tight = repository / "all-minilm-l6-v2", folder / "tight"
    (tight / "1").mkdir(parents=True)
    config = text_format.Parse((default / "config.pbtxt").read_text(), pb.ModelConfig())
    config.name = "tight"
    config.ClearField("model_warmup")
    (tight / "config.pbtxt").write_text(text_format.MessageToString(config))
    (tight / "1" / "model.py").write_text(MODEL.format(behaviour=BEHAVIOUR))
    shutil.copy(default / "tokenizer.json", tight)
    with serve(folder) as server, httpx2.Client(base_url=server.url, timeout=30) as client:
        yield client


def row(tokens: int) -> list[int]:
    return [101, *range(2000, 2000 + tokens - 2), 102]


def lengths(answer: httpx2.Response) -> list[int]:
    """The length of the row that each vector is from."""
    assert answer.status_code == 200, answer.text
    return [round(item["embedding"][1] / item["embedding"][0]) for item in answer.json()["data"]]


def test_rows_without_room_together_are_computed_apart(client: httpx2.Client) -> None:
    given = [3, 55, 20, 58, 4, 31, 60, 7, 29]
    assert lengths(client.post("/v1/embeddings", json={"input": [row(tokens) for tokens in given]})) == given


def test_only_a_call_with_a_row_that_fails_alone_fails(client: httpx2.Client) -> None:
    with_long = client.post("/v1/embeddings", json={"input": [row(5), row(MOST_TOKENS + 1), row(6), row(7)]})
    assert with_long.status_code == 502
    assert with_long.json()["error"]["code"] == "inference_failed"
    assert lengths(client.post("/v1/embeddings", json={"input": [row(5), row(6)]})) == [5, 6]
