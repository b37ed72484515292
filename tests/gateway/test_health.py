import asyncio
import logging
import math
import os
from pathlib import Path

import httpx2
import pytest

from gateway.board import LISTENS, Board
from gateway.catalog import Catalog
from gateway.drain import Drain
from gateway.gauges import gauges
from gateway.health import FRESH_S, Monitor
from gateway.scheduling.admission import Queues
from gateway.scheduling.rate import Rate
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
        monitor = Monitor(triton, Catalog(triton, repository), Queues(5), Threads(1, spare=0), Drain())
        watching = asyncio.create_task(monitor.run())
        await eventually_async(lambda: expected in said.messages, lambda: f"{expected!r} in {said.messages}")
        watching.cancel()
        await triton.close()

    asyncio.run(run())


def test_models_that_answer_probes_are_ready(server: Server, repository: Path, said: pytest.LogCaptureFixture) -> None:
    watch(server.triton_url, repository, said, "ready")


def test_missing_triton_is_reported(repository: Path, said: pytest.LogCaptureFixture) -> None:
    watch(f"127.0.0.1:{free_ports(1)[0]}", repository, said, "not ready: Triton is not responding")


def test_triton_without_entries_is_reported(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    watch("127.0.0.1:1", tmp_path, said, "not ready: Triton has no model that this gateway can serve", EmptyTriton)


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


def test_monitor_survives_panics(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    watch(
        "127.0.0.1:1",
        tmp_path,
        said,
        "not ready: Triton has no model that this gateway can serve",
        PanickingTriton,
    )
    assert said.messages == [
        "checking Triton failed",
        "not ready: Triton has no model that this gateway can serve",
    ]
    assert "said once" in said.text


def test_image_models_need_no_file(server: Server, tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    watch(server.triton_url, tmp_path, said, "ready")


def test_models_are_known_after_the_first_check(server: Server, repository: Path) -> None:
    async def run() -> None:
        triton = Triton([server.triton_url], timeout_s=5)
        catalog = Catalog(triton, repository)
        monitor = Monitor(triton, catalog, Queues(5), Threads(1, spare=0), Drain())
        watching = asyncio.create_task(monitor.run())
        await monitor.first_check()
        assert len(catalog.models) == 3
        watching.cancel()
        await triton.close()

    asyncio.run(run())


def test_busy_model_may_be_silent_for_the_expected_time(server: Server, repository: Path) -> None:
    async def run() -> None:
        triton = Triton([server.triton_url], timeout_s=100)
        catalog, queues = Catalog(triton, repository), Queues(100)
        monitor = Monitor(triton, catalog, queues, Threads(1, spare=0), Drain())
        watching = asyncio.create_task(monitor.run())
        await eventually_async(lambda: monitor.problem() is None, "readiness")
        watching.cancel()  # no probes any more
        queue = queues.get("all-minilm-l6-v2")
        queue.rate, queue.in_flight = Rate(100), 2000
        await eventually_async(lambda: "minilm-late-interaction" in str(monitor.problem()), timeout_s=2 * FRESH_S)
        assert "all-minilm-l6-v2" not in str(monitor.problem())
        await triton.close()

    asyncio.run(run())


def test_only_a_worker_that_listens_tells_its_health(repository: Path) -> None:
    async def run() -> None:
        triton = Triton([f"127.0.0.1:{free_ports(1)[0]}"], timeout_s=5)
        catalog, queues, drain, board = Catalog(triton, repository), Queues(5), Drain(), Board()
        monitor = Monitor(triton, catalog, queues, Threads(1, spare=0), drain)
        told = {gauge.name: gauge.read for gauge in gauges(triton, catalog, queues, monitor, drain, board)}
        listens = board.row(LISTENS)
        for state, expected in ((math.nan, {}), (1, {"": False}), (0, {})):
            board.own[listens] = state
            assert told["conch_ready"]() == expected
            assert bool(told["conch_triton_up"]()) == (state == 1)
        await triton.close()

    asyncio.run(run())


def test_answer_outlives_the_worker_that_got_it(server: Server, repository: Path) -> None:
    async def run() -> None:
        shared = Board.create(2)
        triton, others = (Triton([server.triton_url], timeout_s=5) for _ in range(2))
        catalog, queues = Catalog(triton, repository), Queues(5)
        first, second = (
            Monitor(one, catalog, queues, Threads(1, spare=0), Drain(), Board(2, shared.file, column))
            for column, one in enumerate((triton, others))
        )
        watching = asyncio.create_task(first.run())
        await eventually_async(lambda: first.problem() is None, "readiness")
        watching.cancel()
        shared.leave(0)
        assert all(map(second.is_ready, catalog.triton_models))
        for one in (triton, others):
            await one.close()
        os.close(shared.file)

    asyncio.run(run())


def test_health_over_http(client: httpx2.Client) -> None:
    assert client.get("/health/live").json() == {"status": "live"}
    ready = client.get("/health/ready")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
