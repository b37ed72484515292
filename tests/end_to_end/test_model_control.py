"""A model that Triton loads or unloads while it runs is served or not, without a restart."""

from pathlib import Path

import httpx2

from tests.serving import ADMIN, serve
from tests.waiting import eventually

RERANK = {"query": "sea", "documents": ["a sea snail"]}


def test_loaded_model_is_served_and_unloaded_one_is_not(repository: Path, tmp_path: Path) -> None:
    names = ("all-minilm-l6-v2", "minilm-late-interaction")
    embedding, reranker = (tmp_path / name for name in names)
    embedding.symlink_to((repository / names[0]).resolve())
    with serve(tmp_path) as server, httpx2.Client(base_url=server.url, timeout=30) as client:
        missing = client.post("/v1/rerank", json=RERANK)
        assert missing.status_code == 404
        assert missing.json()["error"]["message"] == "there is no default model for this endpoint; served here: none"

        reranker.symlink_to((repository / names[1]).resolve())
        control = f"http://127.0.0.1:{server.ports['TRITON_HTTP_PORT']}/v2/repository/models/{names[1]}"
        assert httpx2.post(f"{control}/load", json={}, headers=ADMIN, timeout=30).status_code == 200
        eventually(lambda: client.post("/v1/rerank", json=RERANK).status_code == 200, "200 of the loaded model")

        assert httpx2.post(f"{control}/unload", json={}, headers=ADMIN, timeout=30).status_code == 200
        eventually(lambda: client.post("/v1/rerank", json=RERANK).status_code == 503, "503")  # it may come again
        eventually(lambda: client.post("/v1/rerank", json=RERANK).status_code == 404, "404")
        assert client.get("/health/ready").status_code == 200
