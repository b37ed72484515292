"""Repeated texts are answered without Triton, and never with the results of a model that has been replaced."""

import asyncio
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from gateway.cache import OVERHEAD_BYTES
from gateway.triton import Triton
from loadtest.tools.servers import free_ports, gateway
from tests.serving import ADMIN, Server, serve
from tests.waiting import eventually

MODEL = """
import json
from pathlib import Path
import numpy as np
import triton_python_backend_utils as triton

class TritonPythonModel:
    def initialize(self, args):
        self.counts = args["model_name"].startswith("counting")
        self.weight = float((Path(args["model_repository"]) / args["model_version"] / "weight").read_text())
        self.calls = 0

    def execute(self, requests):
        answers = []
        for request in requests:
            ids = np.from_dlpack(triton.get_input_tensor_by_name(request, "input_ids"))
            self.calls += self.counts and ids.shape[1] > 1  # not for probes
            columns = [np.full(len(ids), self.weight), np.full(len(ids), self.calls), 1 + ids.sum(1) / 1e8]
            result = np.stack(columns, axis=1).astype(np.float32)
            answers.append(triton.InferenceResponse([triton.Tensor.from_dlpack("embedding", result)]))
        return answers
"""
"""Embeds each text as its weight, the number of calls so far if its name begins with "counting", and about 1."""
ROWS = 8
"""That the cache has room for."""
CACHE_BYTES = ROWS * (OVERHEAD_BYTES + 3 * 4)
TEXTS = ["a shell", "a sea snail", "a shell", "the conch"]


def write(entry: Path, default: Path, weight: int, digest: str) -> None:
    """Write an entry, or replace its weight and digest."""
    config = text_format.Parse((default / "config.pbtxt").read_text(), pb.ModelConfig())
    for field in ("model_warmup", "output"):
        config.ClearField(field)
    config.name = entry.name
    config.output.add(name="embedding", data_type=pb.TYPE_FP32, dims=[3])
    for parameter in ("aliases", "default", "tokens_pooling", "digest"):
        config.parameters.pop(parameter)
    if digest:
        config.parameters["digest"].string_value = digest
    (entry / "1").mkdir(parents=True, exist_ok=True)
    (entry / "1" / "weight").write_text(str(weight))
    (entry / "1" / "model.py").write_text(MODEL)
    shutil.copyfile(default / "tokenizer.json", entry / "tokenizer.json")
    (entry / "config.pbtxt").write_text(text_format.MessageToString(config))


@pytest.fixture(scope="module")
def models(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, digest in (("counting", "one"), ("counting-unknown", ""), ("steady", "one")):
        write(folder / name, repository / "all-minilm-l6-v2", 1, digest)
    return folder


@pytest.fixture(scope="module")
def cached(models: Path) -> Iterator[Server]:
    with serve(models, GATEWAY_CACHE_BYTES=str(CACHE_BYTES)) as server:
        yield server


@pytest.fixture
def client(cached: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=cached.url, timeout=30) as client:
        yield client


def embed(client: httpx2.Client, model: str, texts: list[str], **fields: Any) -> dict[str, Any]:
    response = client.post("/v1/embeddings", json={"model": model, "input": texts, **fields})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    del answer["id"]
    return answer


def seen(client: httpx2.Client, model: str, text: str) -> tuple[int, int]:
    """The weight and the number of calls in the vector of a text."""
    (item,) = embed(client, model, [text])["data"]
    weight, calls, one = item["embedding"]
    return round(weight / one), round(calls / one)


def metric(client: httpx2.Client, name: str) -> float:
    found = re.search(rf"^conch_cache_{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def test_repeated_texts_are_answered_as_before(client: httpx2.Client, cached: Server) -> None:
    first = embed(client, "counting", TEXTS)
    assert embed(client, "counting", TEXTS) == first
    assert seen(client, "counting", TEXTS[0]) == (1, 1)  # the call of the first request
    assert first["usage"]["total_tokens"] == sum(
        embed(client, "counting", [text])["usage"]["total_tokens"] for text in TEXTS
    )
    name = '{model="counting"}'
    eventually(lambda: metric(client, f"hits_total{name}") == 1 + 4 + 1 + 4, "hits in the metrics")
    assert metric(client, f"misses_total{name}") == 3
    assert metric(client, "bytes") == 3 * (OVERHEAD_BYTES + 3 * 4)
    lines = [json.loads(line) for line in cached.lines if '"cached"' in line]
    assert [line["cached"] for line in lines[:2]] == [1, 4]


def test_answers_are_those_without_a_cache(client: httpx2.Client, cached: Server, models: Path, tmp_path: Path) -> None:
    with (
        gateway(models, tmp_path / "log", GATEWAY_TRITON_URL=cached.triton_url) as plain,
        httpx2.Client(base_url=f"http://127.0.0.1:{plain.port}", timeout=30) as without,
    ):
        for texts in (TEXTS, [*TEXTS, "another text"], TEXTS[:1]):
            expected = embed(without, "steady", texts, encoding_format="base64")
            assert embed(client, "steady", texts, encoding_format="base64") == expected


def test_least_recently_used_texts_make_room(client: httpx2.Client) -> None:
    _, before = seen(client, "counting", "kept")
    dropped = metric(client, "evictions_total")
    for number in range(3 * ROWS):
        seen(client, "counting", f"text {number}")
        assert seen(client, "counting", "kept") == (1, before)
    assert metric(client, "bytes") == CACHE_BYTES
    assert metric(client, "evictions_total") - dropped >= 2 * ROWS
    assert seen(client, "counting", "text 0")[1] == before + 3 * ROWS + 1


def test_model_without_a_digest_is_not_cached(client: httpx2.Client) -> None:
    assert [seen(client, "counting-unknown", "a shell") for _ in range(3)] == [(1, 1), (1, 2), (1, 3)]


def test_servers_that_differ_are_noticed(cached: Server, models: Path, repository: Path, tmp_path: Path) -> None:
    for name in ("counting", "counting-unknown", "steady"):
        shutil.copytree(models / name, tmp_path / name)
    write(tmp_path / "steady", repository / "all-minilm-l6-v2", 1, "two")

    async def differing(*urls: str) -> set[str]:
        triton = Triton(urls, timeout_s=5)
        await triton.is_live()
        for url, is_live in triton.live().items():
            assert is_live, url
        found = await triton.differing(await triton.models())
        await triton.close()
        return found

    async def differing_from_a_silent_one() -> set[str]:
        triton = Triton([cached.triton_url, f"127.0.0.1:{free_ports(1)[0]}"], timeout_s=5)
        found = await triton.differing(await triton.models())
        await triton.close()
        return found

    assert asyncio.run(differing_from_a_silent_one()) == {"counting", "counting-unknown", "steady"}
    with serve(tmp_path) as other:
        assert asyncio.run(differing(cached.triton_url)) == set()
        assert asyncio.run(differing(cached.triton_url, cached.triton_url)) == set()
        assert asyncio.run(differing(cached.triton_url, other.triton_url)) == {"steady"}


def test_replaced_model_is_never_answered_from_the_cache(
    client: httpx2.Client, cached: Server, models: Path, repository: Path
) -> None:
    control = f"http://127.0.0.1:{cached.ports['TRITON_HTTP_PORT']}/v2/repository/models/counting/load"
    for weight, digest in ((2, "two"), (3, "three"), (4, "two")):
        before = seen(client, "counting", "a shell")
        assert seen(client, "counting", "a shell") == before
        write(models / "counting", repository / "all-minilm-l6-v2", weight, digest)
        assert httpx2.post(control, json={}, headers=ADMIN, timeout=30).status_code == 200
        eventually(lambda weight=weight: seen(client, "counting", "a shell")[0] == weight, "the new model's answer")  # type: ignore[misc]
        after = [seen(client, "counting", "a shell") for _ in range(5)]
        assert after == [after[0]] * 5
        assert after[0][0] == weight
