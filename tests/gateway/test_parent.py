"""A gateway with several workers. Whether Triton is there does not matter."""

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil

from loadtest.tools.servers import HOST, free_ports
from tests.gateway.telemetry.test_metrics import value
from tests.waiting import eventually


class Gateway:
    """A running parent."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.process = process
        self.url = f"http://{HOST}:{port}"

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def get(self, path: str) -> httpx2.Response:
        """Over a new connection."""
        return httpx2.get(f"{self.url}{path}", timeout=30)

    def answers(self) -> bool:
        try:
            return self.get("/health/live").status_code == httpx2.codes.OK
        except httpx2.TransportError:
            return False

    def listening(self) -> float:
        """How many workers have begun to serve: each has file descriptors open that only it counts."""
        return value(self.get("/metrics").text, "process_max_fds") / resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    def answered(self) -> float:
        """Requests for /health/live, as any worker counts them for all."""
        return value(self.get("/metrics").text, "conch_requests_total", model="", path="/health/live", status="200")


@contextmanager
def run(workers: int, **settings: str) -> Iterator[Gateway]:
    (port,) = free_ports(1)
    given = {"GATEWAY_PORT": str(port), "GATEWAY_WORKERS": str(workers), "GATEWAY_TRITON_URL": f"{HOST}:1"} | settings
    with subprocess.Popen([sys.executable, "-m", "gateway"], env=os.environ | given) as process:
        try:
            gateway = Gateway(process, port)
            eventually(gateway.answers, "an answer")
            yield gateway
        finally:
            process.kill()


def test_workers_live_and_die_without_a_request_lost(tmp_path: Path) -> None:
    """One after the other, since starting takes seconds: counted together, killed, replaced, stopped."""
    with run(2, GATEWAY_HEARTBEAT_FILE=str(tmp_path / "heartbeat")) as pair:
        live(pair, tmp_path)


def live(pair: Gateway, tmp_path: Path) -> None:
    eventually((tmp_path / "heartbeat").exists, "heartbeat of both workers")
    before = pair.answered()
    assert {pair.get("/health/live").status_code for _ in range(40)} == {200}
    assert pair.answered() == before + 40

    first, second = pair.workers()
    first.kill()
    assert {pair.get("/health/live").status_code for _ in range(20)} == {200}
    eventually(lambda: len(pair.workers()) == 2 and first not in pair.workers(), "a new worker")
    assert second in pair.workers()
    assert pair.answered() == before + 60

    for number in (signal.SIGSTOP, signal.SIGCONT):  # as a debugger does, or a machine that is suspended
        pair.process.send_signal(number)
        time.sleep(0.5)

    old = set(pair.workers())
    pair.process.send_signal(signal.SIGHUP)
    requests = 0
    with httpx2.Client(base_url=pair.url, timeout=30) as client:
        while len(set(pair.workers()) - old) < 2 or len(pair.workers()) > 2:
            assert client.get("/health/live").status_code == 200
            requests += 1
    assert pair.answered() == before + 60 + requests

    pair.process.terminate()
    assert pair.process.wait(30) == -signal.SIGTERM


def test_quota_is_exact_over_four_workers_which_end_with_their_parent() -> None:
    with run(4, GATEWAY_REQUESTS_PER_MINUTE="100") as gateway, ThreadPoolExecutor(16) as threads:
        eventually(lambda: gateway.listening() == 4, "all workers")
        statuses = Counter(threads.map(lambda _: gateway.get("/v1/models").status_code, range(140)))
        counted = gateway.get("/metrics").text
        workers = gateway.workers()
        gateway.process.kill()
        gone, _ = psutil.wait_procs(workers, timeout=10)
    assert statuses == {200: 100, 429: 40}
    assert value(counted, "conch_errors_total", model="", type="QuotaExceeded") == 40
    assert len(gone) == 4


def test_gateway_that_cannot_start_says_so() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        gateway = subprocess.run(
            [sys.executable, "-m", "gateway"],
            env=os.environ | {"GATEWAY_PORT": str(port), "GATEWAY_WORKERS": "2"},
            capture_output=True,
            check=False,
            text=True,
        )
    assert gateway.returncode == 3
    assert f"cannot listen on 127.0.0.1, port {port}" in gateway.stdout
