import asyncio
import logging
from pathlib import Path

import httpx2
import pytest

from gateway.catalog import Catalog
from gateway.drain import Drain
from gateway.health import FRESH_S, Monitor
from gateway.scheduling.admission import Lines
from gateway.scheduling.threads import Threads
from gateway.triton import ModelConfig, Triton
from loadtest.tools.servers import free_ports
from tests.serving import Server
from tests.waiting import eventually_async


class EmptyTriton(Triton):
    """Ready, with nothing to serve."""

    async def is_live(self) -> bool:
        return True

    async def models(self) -> list[ModelConfig]:
        return []


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "gateway.health")
    return caplog


def watch(
    url: str, repository: Path, said: pytest.LogCaptureFixture, expected: str, kind: type[Triton] = Triton
) -> None:
    """Wait until a monitor has logged this, which it does when it has looked."""

    async def run() -> None:
        triton = kind([url], timeout_s=5)
        monitor = Monitor(triton, Catalog(triton, repository), Lines(5), Threads(1, spare=0), Drain())
        watching = asyncio.create_task(monitor.run())
        await eventually_async(lambda: expected in said.messages, lambda: f"{expected!r} in {said.messages}")
        watching.cancel()
        await triton.close()

    asyncio.run(run())


def test_models_that_answer_probes_are_no_problem(
    server: Server, repository: Path, said: pytest.LogCaptureFixture
) -> None:
    watch(server.triton_url, repository, said, "ready")


def test_triton_that_is_not_there_is_the_problem(repository: Path, said: pytest.LogCaptureFixture) -> None:
    watch(f"127.0.0.1:{free_ports(1)[0]}", repository, said, "not ready: Triton does not answer")


def test_triton_without_an_entry_of_ours_is_the_problem(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    watch("127.0.0.1:1", tmp_path, said, "not ready: Triton serves no model that Conch exported", EmptyTriton)


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


def test_watch_goes_on_whatever_happens(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    watch("127.0.0.1:1", tmp_path, said, "not ready: Triton serves no model that Conch exported", PanickingTriton)
    assert said.messages == ["the look at Triton failed", "not ready: Triton serves no model that Conch exported"]
    assert "said once" in said.text


def test_images_need_no_file_of_the_entry(server: Server, tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    watch(server.triton_url, tmp_path, said, "ready")


def test_model_may_be_silent_for_as_long_as_its_work_takes(server: Server, repository: Path) -> None:
    async def run() -> None:
        triton = Triton([server.triton_url], timeout_s=100)
        catalog, lines = Catalog(triton, repository), Lines(100)
        monitor = Monitor(triton, catalog, lines, Threads(1, spare=0), Drain())
        watching = asyncio.create_task(monitor.run())
        await eventually_async(lambda: monitor.problem() is None, "readiness")
        watching.cancel()  # no probes any more
        line = lines.of("all-minilm-l6-v2")
        line.rate, line.in_flight = 100.0, 2000
        await eventually_async(lambda: "minilm-late-interaction" in str(monitor.problem()), timeout_s=2 * FRESH_S)
        assert "all-minilm-l6-v2" not in str(monitor.problem())
        await triton.close()

    asyncio.run(run())


def test_health_over_http(client: httpx2.Client) -> None:
    assert client.get("/health/live").json() == {"status": "live"}
    ready = client.get("/health/ready")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
