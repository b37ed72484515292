import asyncio
import logging
from pathlib import Path

import httpx2
import pytest

from gateway.catalog import Catalog
from gateway.drain import Drain
from gateway.health import FRESH_S, Code, Monitor
from gateway.scheduling.admission import Queues
from gateway.scheduling.threads import Threads
from gateway.triton import ModelConfig, Triton
from loadtest.servers import free_ports
from tests.serving import Server


class EmptyTriton(Triton):
    """Ready, with nothing to serve."""

    async def is_live(self) -> bool:
        return True

    async def models(self) -> list[ModelConfig]:
        return []


def watch(url: str, repository: Path, seconds: float, kind: type[Triton] = Triton) -> Code | None:
    """The problem after a monitor has watched for a while."""

    async def run() -> Code | None:
        triton = kind([url], timeout_s=5)
        monitor = Monitor(triton, Catalog(triton, repository), Queues(5), Threads(1, spare=0), Drain())
        watching = asyncio.create_task(monitor.run())
        await asyncio.sleep(seconds)
        watching.cancel()
        problem = monitor.problem()
        await triton.close()
        return problem.code if problem is not None else None

    return asyncio.run(run())


def test_models_that_answer_probes_are_ready(server: Server, repository: Path) -> None:
    assert watch(server.triton_url, repository, 2.5) is None


def test_missing_triton_is_reported(repository: Path) -> None:
    assert watch(f"127.0.0.1:{free_ports(1)[0]}", repository, 0.5) == "triton_unreachable"


def test_triton_without_entries_is_reported(tmp_path: Path) -> None:
    assert watch("127.0.0.1:1", tmp_path, 0.5, EmptyTriton) == "no_models"


class Panic(BaseException):
    """As what Rust panics with: no Exception."""


class PanickingTriton(EmptyTriton):
    """Panics at the first questions."""

    asked = 0

    async def models(self) -> list[ModelConfig]:
        self.asked += 1
        if self.asked < 2:
            raise Panic("said once")
        return await super().models()


def test_monitor_survives_panics(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gateway.health")
    assert watch("127.0.0.1:1", tmp_path, 2.5, PanickingTriton) == "no_models"
    assert caplog.messages == ["checking Triton failed", "not ready: Triton serves no model that Conch exported"]
    assert "said once" in caplog.text


def test_image_models_need_no_file(server: Server, tmp_path: Path) -> None:
    assert watch(server.triton_url, tmp_path, 2.5) is None


def test_busy_model_may_be_silent_for_the_expected_time(server: Server, repository: Path) -> None:
    async def run() -> None:
        triton = Triton([server.triton_url], timeout_s=100)
        catalog, queues = Catalog(triton, repository), Queues(100)
        monitor = Monitor(triton, catalog, queues, Threads(1, spare=0), Drain())
        watching = asyncio.create_task(monitor.run())
        await asyncio.sleep(2.5)
        assert monitor.problem() is None
        watching.cancel()  # no probes any more
        queue = queues.get("all-minilm-l6-v2")
        queue.rate, queue.in_flight = 100.0, 2000
        await asyncio.sleep(FRESH_S + 0.5)
        problem = monitor.problem()
        assert problem is not None
        assert "minilm-late-interaction" in problem.reason
        assert "all-minilm-l6-v2" not in problem.reason
        await triton.close()

    asyncio.run(run())


def test_health_over_http(client: httpx2.Client) -> None:
    assert client.get("/health/live").json() == {"status": "live"}
    ready = client.get("/health/ready")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
