"""Requests of different length meet in one batch: what ragged batching is for."""

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import httpx2
import numpy as np
from numpy.typing import NDArray

from loadtest.tools.servers import counted
from tests.serving import Server
from tests.waiting import eventually

INTERVAL_S = 0.25
"""How often engines publish, at the latest: export/runtime/metrics.py, which only Triton can import."""

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
    time.sleep(2 * INTERVAL_S)
    before = counts(server)
    texts = ["a " * words for words in range(1, 17)]  # so many lengths that packs have several, on any number of cores
    total = client.post("/v1/embeddings", json={"input": texts}).json()["usage"]["total_tokens"]

    def gained() -> Mapping[str, float] | None:
        """What both counters gained, once both have: an engine publishes one after the other."""
        gain = {name: value - before[name] for name, value in counts(server).items()}
        return gain if gain["tokens"] >= total and gain["padding"] else None

    gain = eventually(gained)
    assert gain["tokens"] - total < total  # of the gateway's probes
    assert 0 < gain["padding"] < 4  # 3.4, if all rows are one pack


def test_engines_publish_what_they_do(server: Server, client: httpx2.Client) -> None:
    """A model that computes, and one that is only probed."""

    def series() -> Mapping[str, float]:
        text = httpx2.get(f"http://127.0.0.1:{server.ports['TRITON_METRICS_PORT']}/metrics").text
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("conch_engine_"))
        return {name: float(value) for name, value in lines}

    labels = 'device="cpu",{}model="all-minilm-l6-v2"'
    instance = labels + ',model_instance="all-minilm-l6-v2_0_0"'
    mode, kind = 'mode="compiled",', 'kind="resident",'
    executions = f"conch_engine_executions_total{{{labels.format(mode)}}}"
    before = series()
    client.post("/v1/embeddings", json={"input": TEXTS})
    after = eventually(lambda: found if (found := series())[executions] - before[executions] > 1 else None)
    assert after[f"conch_engine_halved_batches_total{{{labels.format('')}}}"] == 0
    assert after[f"conch_engine_memory_bytes{{{instance.format(kind)}}}"] > 50e6
    assert after.keys() == before.keys()
    in_flight = f"conch_engine_tokens_in_flight{{{instance.format('')}}}"
    seen = Event()

    def send() -> None:
        while not seen.is_set():
            assert client.post("/v1/embeddings", json={"input": TEXTS}).status_code == 200

    with ThreadPoolExecutor() as clients:
        sending = clients.submit(send)
        try:
            assert eventually(lambda: series()[in_flight]) > 0
        finally:
            seen.set()
        sending.result()
    eventually(lambda: series()[in_flight] == 0)
