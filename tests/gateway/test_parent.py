"""A gateway with several workers. Whether Triton is there does not matter."""

import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

import httpx2
import psutil

from loadtest.tools.servers import HOST, free_ports
from tests.gateway.telemetry.test_metrics import value
from tests.waiting import eventually


class Gateway:
    """A running parent."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: BinaryIO) -> None:
        self.process = process
        self.port = port
        self.url = f"http://{HOST}:{port}"
        self._log = log

    def said(self, text: str) -> bool:
        return text.encode() in os.pread(self._log.fileno(), 2**24, 0)

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
def run(workers: int, *, nohup: bool = False, **settings: str) -> Iterator[Gateway]:
    (port,) = free_ports(1)
    given = {"GATEWAY_PORT": str(port), "GATEWAY_WORKERS": str(workers), "GATEWAY_TRITON_URL": f"{HOST}:1"} | settings
    command = ["nohup"] * nohup + [sys.executable, "-m", "gateway"]
    with TemporaryFile() as log, subprocess.Popen(command, env=os.environ | given, stdout=log) as process:
        try:
            gateway = Gateway(process, port, log)
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
    assert inheritable(first) == {0, 1, 2}  # the port stays free for others, whatever a worker starts
    first.kill()
    assert {pair.get("/health/live").status_code for _ in range(20)} == {200}
    eventually(lambda: len(pair.workers()) == 2 and first not in pair.workers(), "a new worker")
    assert second in pair.workers()
    assert pair.answered() == before + 60

    for number in (signal.SIGSTOP, signal.SIGCONT):  # as a debugger does, or a machine that is suspended
        pair.process.send_signal(number)
        time.sleep(0.5)

    parent = psutil.Process(pair.process.pid)
    (_, most) = parent.rlimit(psutil.RLIMIT_NOFILE)
    parent.rlimit(psutil.RLIMIT_NOFILE, (3, most))
    (_, first) = pair.workers()
    first.kill()
    eventually(lambda: pair.said("cannot start a worker: "), "a parent without file descriptors")
    parent.rlimit(psutil.RLIMIT_NOFILE, (most, most))
    eventually(lambda: pair.listening() == 2, "a new worker")

    old = set(pair.workers())
    idle = [connect(pair, b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n") for _ in range(8)]
    for one in idle:
        assert b" 200 OK" in one.recv(2**16)
    head = b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n"
    slow = [connect(pair, head + b"{") for _ in range(8)]
    pair.process.send_signal(signal.SIGHUP)
    (closed, *_), _, _ = select.select(idle, [], [], 30)
    assert closed.recv(2**16) == b""  # while the same worker finishes others
    for one in slow:
        one.send(b"}")
        assert one.recv(2**16).startswith(b"HTTP/1.1 400 ")
    for one in (*idle, *slow):
        one.close()
    requests = 0
    with httpx2.Client(base_url=pair.url, timeout=30) as client:
        while len(set(pair.workers()) - old) < 2 or len(pair.workers()) > 2:
            assert client.get("/health/live").status_code == 200
            requests += 1
    assert pair.answered() == before + 60 + requests

    pair.process.terminate()
    assert pair.process.wait(30) == -signal.SIGTERM


def inheritable(process: psutil.Process) -> set[int]:
    """The file descriptors that the children of a process may have too."""
    found = set()
    for file in Path(f"/proc/{process.pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if not int(file.read_text().partition("flags:")[2].split()[0], 8) & os.O_CLOEXEC:
                found.add(int(file.name))
    return found


def ignores_hangup(process: psutil.Process) -> bool:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("SigIgn:")[2].split()[0], 16) & 1 << signal.SIGHUP - 1 != 0


def connect(gateway: Gateway, sent: bytes) -> socket.socket:
    connection = socket.create_connection((HOST, gateway.port), timeout=30)
    connection.send(sent)
    return connection


def test_quota_is_exact_over_four_workers_which_end_with_their_parent() -> None:
    with run(4, nohup=True, GATEWAY_REQUESTS_PER_MINUTE="100") as gateway, ThreadPoolExecutor(16) as threads:
        eventually(lambda: gateway.listening() == 4, "all workers")
        statuses = Counter(threads.map(lambda _: gateway.get("/v1/models").status_code, range(140)))
        counted = gateway.get("/metrics").text
        workers = gateway.workers()
        assert all(map(ignores_hangup, (psutil.Process(gateway.process.pid), *workers)))
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
