"""Stopping a real gateway while it works."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from signal import SIGTERM

import httpx2

from loadtest.experiments.faults import pids
from loadtest.tools.servers import HOST, conch, free_ports
from tests.waiting import eventually

TEXTS = ["some words " * 100] * 256
"""Seconds of work."""
PATIENCE = "100"
"""GATEWAY_REQUEST_TIMEOUT: while `make check` keeps all cores busy, the work takes longer than the default allows."""


def computes(port: int) -> bool:
    """Whether Triton has something to compute."""
    metrics = httpx2.get(f"http://{HOST}:{port}/metrics").text.splitlines()
    return any(float(line.rpartition(" ")[2]) for line in metrics if line.startswith("conch_in_flight_tokens{"))


def stops(port: int) -> bool:
    """Whether the gateway has heard that it is to stop."""
    return httpx2.get(f"http://{HOST}:{port}/health/ready").status_code == 503


def test_accepted_requests_finish_and_new_ones_are_refused(repository: Path, tmp_path: Path) -> None:
    async def use(port: int, gateway: int) -> tuple[int, int]:
        async with httpx2.AsyncClient(base_url=f"http://{HOST}:{port}", timeout=110) as client:
            accepted = asyncio.create_task(client.post("/v1/embeddings", json={"input": TEXTS}))
            await asyncio.to_thread(eventually, lambda: computes(port))
            os.kill(gateway, SIGTERM)
            await asyncio.to_thread(eventually, lambda: stops(port))
            late = await client.post("/v1/embeddings", json={"input": "late"})
            assert not accepted.done()
            return late.status_code, (await accepted).status_code

    with conch(repository, tmp_path / "log", GATEWAY_DRAIN_TIMEOUT="90", GATEWAY_REQUEST_TIMEOUT=PATIENCE) as server:
        (gateway,) = pids(server, "gateway")
        assert asyncio.run(use(server.port, gateway)) == (503, 200)


def test_unfinished_requests_get_503_at_the_drain_timeout(repository: Path, tmp_path: Path) -> None:
    async def use(port: int, gateway: int) -> tuple[int, str]:
        async with httpx2.AsyncClient(base_url=f"http://{HOST}:{port}", timeout=110) as client:
            accepted = asyncio.create_task(client.post("/v1/embeddings", json={"input": TEXTS}))
            await asyncio.to_thread(eventually, lambda: computes(port))
            os.kill(gateway, SIGTERM)
            answer = await accepted
            return answer.status_code, answer.json()["error"]["message"]

    with conch(repository, tmp_path / "log", GATEWAY_DRAIN_TIMEOUT="0", GATEWAY_REQUEST_TIMEOUT=PATIENCE) as server:
        (gateway,) = pids(server, "gateway")
        assert asyncio.run(use(server.port, gateway)) == (503, "the server is stopping")


def test_idle_gateway_stops_at_once(repository: Path, tmp_path: Path) -> None:
    with conch(repository, tmp_path / "log", GATEWAY_DRAIN_TIMEOUT="60") as server:
        (gateway,) = (process for process, role in server.roles() if role == "gateway")
        started = time.monotonic()
        gateway.send_signal(SIGTERM)
        gateway.wait(10)
        assert time.monotonic() - started < 5


def test_heartbeat_file_is_touched(tmp_path: Path) -> None:
    heartbeat = tmp_path / "heartbeat"
    settings = {"GATEWAY_HEARTBEAT_FILE": str(heartbeat), "GATEWAY_PORT": str(free_ports(1)[0])}
    with subprocess.Popen(
        [sys.executable, "-m", "gateway"], env=os.environ | settings, stderr=subprocess.DEVNULL
    ) as gateway:
        try:
            eventually(heartbeat.exists, "heartbeat")
            first = heartbeat.stat().st_mtime_ns
            eventually(lambda: heartbeat.stat().st_mtime_ns != first, "second heartbeat")
        finally:
            gateway.terminate()
