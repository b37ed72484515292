"""A real Prometheus that watches the tests' server, by the configuration that users have."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from loadtest.tools.servers import free_ports, wait_until_ready
from tests.programs import program
from tests.serving import Server
from tests.waiting import eventually

CONFIGURATION = Path("observability")


@dataclass(frozen=True)
class Tools:
    prometheus: str
    promtool: str


@pytest.fixture(scope="session")
def tools() -> Tools:
    return Tools(*(program(name, package="prometheus") for name in ("prometheus", "promtool")))


@dataclass(frozen=True)
class Prometheus:
    client: httpx2.Client

    def ask(self, path: str, **parameters: str) -> Any:
        """One of its API's answers; its own error where it has one."""
        answer = self.client.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def wait_for(self, expression: str) -> None:
        eventually(lambda: self.ask("query", query=expression)["result"], f"result of {expression}")


@pytest.fixture(scope="session")
def prometheus(tools: Tools, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    configuration = (CONFIGURATION / "prometheus.yml").read_text()
    for given, ours in (
        ("scrape_interval: 15s", "scrape_interval: 250ms\n  evaluation_interval: 1s"),
        ("127.0.0.1:8080", f"127.0.0.1:{server.ports['GATEWAY_PORT']}"),
        ("127.0.0.1:8002", f"127.0.0.1:{server.ports['TRITON_METRICS_PORT']}"),
    ):
        assert given in configuration
        configuration = configuration.replace(given, ours)
    (folder / "prometheus.yml").write_text(configuration)
    shutil.copy(CONFIGURATION / "alerts.yml", folder)
    (port,) = free_ports(1)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                tools.prometheus,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_ready(process, f"http://127.0.0.1:{port}/-/ready", folder / "log", timeout_s=30)
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            yield Prometheus(client)
    finally:
        process.terminate()
        process.wait(15)
