"""A batch lives on when the gateway is killed, and no other worker computes it meanwhile."""

import json
import os
from collections import Counter
from pathlib import Path
from signal import SIGKILL, SIGTERM

import httpx2
import numpy as np
import pytest

from loadtest.experiments.faults import pids
from loadtest.tools.servers import HOST, Server, conch
from tests.waiting import eventually

MODEL = "all-minilm-l6-v2"
TEXTS = 600


def text(number: int) -> str:
    return f"conch number {number} " * (1 + number % 20)


def ask(server: Server, path: str) -> dict[str, object] | None:
    """What the server answers; None while it is down."""
    try:
        answer = httpx2.get(f"http://{HOST}:{server.port}{path}", timeout=60)
    except httpx2.TransportError:
        return None
    found: dict[str, object] = answer.json()
    return found


def completed(server: Server, batch_id: str) -> int:
    """How many requests of a batch have a result, as far as the server tells."""
    batch = ask(server, f"/v1/batches/{batch_id}")
    counts = (batch or {}).get("request_counts")
    return int(counts["completed"]) if isinstance(counts, dict) else 0


@pytest.mark.parametrize(("workers", "signal"), [("1", SIGKILL), ("2", SIGKILL), ("1", SIGTERM)])
def test_stopped_gateway_loses_and_repeats_nothing(repository: Path, tmp_path: Path, workers: str, signal: int) -> None:
    lines = [
        {
            "custom_id": f"text {number}",
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": MODEL, "input": text(number) if number % 50 else ""},  # an empty text is an error
        }
        for number in range(TEXTS)
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    settings = {"GATEWAY_BATCH_FOLDER": str(tmp_path / "batches"), "GATEWAY_WORKERS": workers}
    with conch(repository, tmp_path / "log", **settings) as server:
        url = f"http://{HOST}:{server.port}/v1"
        file = httpx2.post(
            f"{url}/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", content)}, timeout=60
        ).json()
        body = {"input_file_id": file["id"], "endpoint": "/v1/embeddings", "completion_window": "24h"}
        batch_id = httpx2.post(f"{url}/batches", json=body, timeout=60).json()["id"]
        for part in (0.1, 0.5):
            eventually(lambda part=part: completed(server, batch_id) > part * TEXTS)  # type: ignore[misc]
            for gateway in pids(server, "gateway"):
                os.kill(gateway, signal)
        batch = eventually(
            lambda: found if (found := ask(server, f"/v1/batches/{batch_id}")) and found.get("completed_at") else None
        )
        assert batch["request_counts"] == {"total": TEXTS, "completed": TEXTS - 12, "failed": 12}
        found = [
            json.loads(line)
            for kind in ("output", "error")
            for line in httpx2.get(f"{url}/files/{batch[f'{kind}_file_id']}/content", timeout=60).text.splitlines()
        ]
        assert Counter(line["custom_id"] for line in found) == {f"text {number}": 1 for number in range(TEXTS)}
        by_id = {line["custom_id"]: line["response"] for line in found}
        assert {number for number in range(TEXTS) if by_id[f"text {number}"]["status_code"] == 400} == {
            *range(0, TEXTS, 50)
        }
        some = range(1, TEXTS, 37)
        expected = httpx2.post(
            f"{url}/embeddings", json={"model": MODEL, "input": [text(number) for number in some]}, timeout=60
        ).json()["data"]
        for number, item in zip(some, expected, strict=True):
            vector = by_id[f"text {number}"]["body"]["data"][0]["embedding"]
            assert np.dot(vector, item["embedding"]) > 0.999
