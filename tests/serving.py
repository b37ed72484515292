"""Runs `python -m embedded` on free ports, as `make serve` does."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from loadtest.tools import servers
from loadtest.tools.servers import ADMIN_KEY, EMBEDDED, HOST, REPOSITORY
from tests.waiting import eventually

__all__ = ["ADMIN", "REPOSITORY", "Server", "gateway_client", "serve", "start"]

START_TIMEOUT_S = 240
"""For many models on a busy machine; a server that fails ends, which is seen at once."""
ADMIN = {"admin-key": ADMIN_KEY}
"""What Triton's HTTP API asks for."""


@dataclass
class Server:
    """A running Triton and gateway."""

    process: "subprocess.Popen[bytes]"
    ports: dict[str, int]
    """By the name of the setting that took it."""
    log: Path
    """Its output, which is gone when it has been stopped."""
    last_lines: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.ports['GATEWAY_PORT']}"

    @property
    def triton_url(self) -> str:
        return f"{HOST}:{self.ports['TRITON_GRPC_PORT']}"

    @property
    def lines(self) -> list[str]:
        """What it has printed, as far as lines are complete."""
        return self.last_lines or [
            line for line in self.log.read_text(errors="replace").splitlines(keepends=True) if line.endswith("\n")
        ]

    def wait_for(self, text: str, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until a line holds the text; fail with all lines if the process ends or the time does."""

        def is_said_or_ended() -> bool:
            return any(text in line for line in self.lines) or self.process.poll() is not None

        eventually(is_said_or_ended, lambda: f"{text!r} in:\n" + "".join(self.lines), timeout_s)
        assert any(text in line for line in self.lines), f"no {text!r} in:\n" + "".join(self.lines)


@contextmanager
def start(repository: Path, **environment: str) -> Iterator[Server]:
    """Start a server; stop it at the end, by force if need be."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "TRITON_", "OTEL_"))
    }
    ports, settings = servers.settings(repository)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with servers.start(EMBEDDED, inherited | settings | environment, log) as process:
            server = Server(process, ports, log)
            yield server
        server.last_lines = server.lines


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
        server.wait_for("listening on http")
        with httpx2.Client(base_url=server.url, timeout=60) as client:
            yield client
