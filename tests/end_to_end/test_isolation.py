"""Rows that the engine cannot compute, in a batch with others."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.serving import Server, start

BAD = 1013
"""A token id on which the engine of the test fails."""
FAILING = f"""

class Engine(Engine):
    def _feed(self, rows):
        if any({BAD} in ids for (ids,) in rows):
            raise RuntimeError("a secret path")
        return super()._feed(rows)
"""


@pytest.fixture(scope="module")
def failing(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The default model, with an engine that fails for one token."""
    copy = tmp_path_factory.mktemp("failing")
    shutil.copytree(repository / "all-minilm-l6-v2", copy / "all-minilm-l6-v2")
    with (copy / "all-minilm-l6-v2" / "1" / "conch_runtime" / "engine.py").open("a") as engine:
        engine.write(FAILING)
    with start(copy) as server:
        server.wait_for("ready on")
        yield server


def test_only_the_request_with_the_bad_row_fails(failing: Server) -> None:
    async def use() -> list[tuple[int, int]]:
        async with httpx2.AsyncClient(base_url=failing.url, timeout=30) as client:

            async def one(number: int) -> tuple[int, int]:
                ids = [101, BAD if number % 8 == 0 else 2000 + number, 102]
                return number, (await client.post("/v1/embeddings", json={"input": [ids]})).status_code

            return await asyncio.gather(*map(one, range(64)))

    statuses = dict(asyncio.run(use()))
    assert {number for number, status in statuses.items() if status != 200} == set(range(0, 64, 8))
    assert {statuses[number] for number in range(0, 64, 8)} == {502}
    assert not any("secret" in line for line in failing.lines if '"level":"info"' in line)


def test_error_does_not_say_what_the_engine_did(failing: Server) -> None:
    answer = httpx2.post(f"{failing.url}/v1/embeddings", json={"input": [[101, BAD, 102]]})
    assert "secret" not in answer.text
