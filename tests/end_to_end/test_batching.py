"""Requests of different length meet in one batch: what ragged batching is for."""

import asyncio
from collections.abc import Mapping

import httpx2
import numpy as np
from numpy.typing import NDArray

from loadtest.tools.servers import counted
from tests.serving import Server

TEXTS = [f"request {i}: " + "more and more words " * (i % 32) for i in range(64)]


def counts(server: Server) -> Mapping[str, float]:
    """What Triton's metrics say of the embedding model."""
    return counted(server.ports["TRITON_METRICS_PORT"], "all-minilm-l6-v2")


async def embed_all_at_once(url: str) -> NDArray[np.float32]:
    limits = httpx2.Limits(max_connections=len(TEXTS))
    async with httpx2.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        answers = await asyncio.gather(*(client.post("/v1/embeddings", json={"input": text}) for text in TEXTS))
    return np.array([answer.json()["data"][0]["embedding"] for answer in answers], np.float32)


def test_concurrent_requests_of_different_length_share_executions(server: Server, client: httpx2.Client) -> None:
    asyncio.run(embed_all_at_once(server.url))  # connections and shapes are warm from here on
    before = counts(server)
    together = asyncio.run(embed_all_at_once(server.url))
    after = counts(server)
    rows, executions = (after[name] - before[name] for name in ("rows", "executions"))
    assert rows >= len(TEXTS)
    assert rows / executions > 4

    alone = [client.post("/v1/embeddings", json={"input": text}).json()["data"][0]["embedding"] for text in TEXTS]
    assert (together * np.array(alone, np.float32)).sum(1).min() >= 0.9999


def test_tokens_and_padding_are_counted(server: Server, client: httpx2.Client) -> None:
    asyncio.run(embed_all_at_once(server.url))
    before = counts(server)
    texts = ["a few words"] * 3 + ["some more words than these few"]
    usage = client.post("/v1/embeddings", json={"input": texts}).json()["usage"]
    after = counts(server)
    assert after["tokens"] - before["tokens"] == usage["total_tokens"]
    assert 0 < after["padding"] - before["padding"] < 1  # of four rows in one pack
