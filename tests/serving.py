"""Runs `python -m embedded` on free ports, as `make serve` does."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM

import httpx2

from loadtest.tools.servers import PORTS, free_ports

REPOSITORY = Path("model_repository")
START_TIMEOUT_S = 60
ADMIN = {"admin-key": "of the tests"}
"""What Triton's HTTP API asks for."""


@dataclass
class Server:
    """A running Triton and gateway."""

    process: subprocess.Popen[str]
    ports: dict[str, int]
    """By the name of the setting that took it."""
    lines: list[str] = field(default_factory=list)
    """What it has printed."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['GATEWAY_PORT']}"

    @property
    def triton_url(self) -> str:
        return f"127.0.0.1:{self.ports['TRITON_GRPC_PORT']}"

    def wait_for(self, text: str, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until a line holds the text; fail with all lines if the process ends or the time does."""
        deadline = time.monotonic() + timeout_s
        while not any(text in line for line in self.lines):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"no {text!r} in:\n" + "".join(self.lines))
            time.sleep(0.05)

    def collect(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)


@contextmanager
def start(repository: Path, **environment: str) -> Iterator[Server]:
    """Start a server; stop it at the end, by force if need be."""
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "TRITON_", "OTEL_"))
    }
    settings = {name: str(port) for name, port in ports.items()} | {
        "GATEWAY_MODEL_REPOSITORY": str(repository),
        "TRITON_ADMIN_KEY": ADMIN["admin-key"],
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "embedded"],
        env=inherited | settings | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    server = Server(process, ports)
    reader = threading.Thread(target=server.collect)
    reader.start()
    try:
        yield server
    finally:
        process.send_signal(SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
        reader.join(15)
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def serve(repository: Path, **environment: str) -> Iterator[Server]:
    """Start a server and wait until it is ready."""
    with start(repository, **environment) as server:
        server.wait_for("ready on http")
        yield server


@contextmanager
def gateway_client(repository: Path, **environment: str) -> Iterator[httpx2.Client]:
    """Start a server for what its gateway answers whether Triton is there or not, and do not wait for that."""
    with start(repository, **environment) as server:
        server.wait_for("Uvicorn running")
        with httpx2.Client(base_url=server.url) as client:
            yield client
