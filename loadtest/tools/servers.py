"""The servers that are measured, as processes: started, halted while others are measured, and watched."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGTERM
from socket import socket

import psutil

from loadtest.tools.client import BenchmarkError

HOST = "127.0.0.1"
REPOSITORY = Path("model_repository")
"""What `make serve` serves."""
ADMIN_KEY = "of this run"
"""For Triton's HTTP API."""
PORTS = ("GATEWAY_PORT", "TRITON_HTTP_PORT", "TRITON_GRPC_PORT", "TRITON_METRICS_PORT")
"""Settings of what `python -m embedded` listens at."""
EMBEDDED = (sys.executable, "-m", "embedded")
"""The command behind `make serve`."""
START_TIMEOUT_S = 180
STOP_TIMEOUT_S = 20
SETTLE_S = 0.5
"""What models that go on get before Triton does, to give a sign of life."""
ROLES: Mapping[str, str] = {
    "triton_python_backend_stub": "model",
    "tritonserver": "triton",
    "gateway.images.worker": "decoder",
    "gateway": "gateway",
}
"""What a process of Conch does, by a word of its command; first come, first taken."""
COUNTERS: Mapping[str, str] = {
    "nv_inference_count": "rows",
    "nv_inference_exec_count": "executions",
    "conch_tokens_total": "tokens",
    "conch_padding_tokens_total": "padding",
}
"""What Triton's metrics say of the work that was done."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    name: str
    port: int
    process: psutil.Process
    ports: Mapping[str, int]
    """All that it listens at, by the setting's name."""
    models: frozenset[str] = frozenset()
    """That it serves, by their public names."""

    def processes(self) -> list[psutil.Process]:
        """All of it."""
        return [self.process, *self.process.children(recursive=True)]

    def halt(self) -> None:
        """Take all CPU time away from it."""
        for process in self.processes():
            process.suspend()

    def go_on(self) -> None:
        """Let it run again: models first, since Triton takes a model that gives no sign for a while for dead."""
        models = [process for process, role in self.roles() if role == "model"]
        for process in models:
            process.resume()
        if models:
            time.sleep(SETTLE_S)
        for process in self.processes():
            process.resume()

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds since its processes began, by role."""
        found: dict[str, float] = defaultdict(float)
        for process, role in self.roles():
            times = process.cpu_times()
            found[role] += times.user + times.system
        return found

    def rss_mib(self) -> dict[str, float]:
        """Memory that is resident, by role, and that of each model; what processes share is counted for each."""
        found: dict[str, float] = defaultdict(float)
        for process, role in self.roles():
            found[label(role, process.cmdline())] += process.memory_info().rss / 2**20
        return found

    def work(self) -> dict[str, float]:
        """Triton's counts so far, over all models; empty where there is no Triton."""
        port = self.ports.get("TRITON_METRICS_PORT")
        return counted(port) if port is not None else {}

    def roles(self) -> list[tuple[psutil.Process, str]]:
        """Each process that runs, and what it does."""
        found = []
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):  # that one has ended
                found.append((process, role(" ".join(process.cmdline()[:5]))))
        return found


def role(command: str) -> str:
    """What a process does."""
    return next((role for word, role in ROLES.items() if word in command), "server")


def label(role: str, command: Sequence[str]) -> str:
    """A role, and where it is a model, which."""
    model = next((Path(word).parents[1].name for word in command if word.endswith("/model.py")), "")
    return f"{role} {model}".strip()


def counted(port: int, model: str = "", host: str = HOST) -> dict[str, float]:
    """Triton's counts so far, at the port of its metrics: of one model, or over all of them."""
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    found = dict.fromkeys(COUNTERS.values(), 0.0)
    for line in lines:
        name = line.partition("{")[0]
        if name in COUNTERS and model in line:
            found[COUNTERS[name]] += float(line.rpartition(" ")[2])
    return found


@contextmanager
def conch(
    repository: Path,
    log: Path,
    models: Iterable[str] = (),
    name: str = "conch",
    folder: str = ".",
    **environment: str,
) -> Iterator[Server]:
    """Serve a model repository, as `make serve` does.

    Args:
        repository: with models.
        log: where the output goes.
        models: their public names.
        name: of the server in reports.
        folder: the checkout of Conch whose code serves.
        environment: settings of the server.
    """
    ports, given = settings(repository)
    with run(name, EMBEDDED, ports["GATEWAY_PORT"], "/health/ready", log, given | environment, ports, folder) as server:
        yield replace(server, models=frozenset(models))


def settings(repository: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Free ports by their settings' names, and all settings with which EMBEDDED serves a repository there."""
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    rest = {"GATEWAY_MODEL_REPOSITORY": str(repository), "TRITON_ADMIN_KEY": ADMIN_KEY}
    return ports, {name: str(port) for name, port in ports.items()} | rest


@contextmanager
def gateway(repository: Path, log: Path, **environment: str) -> Iterator[Server]:
    """The gateway alone, in front of Tritons that run already."""
    (port,) = free_ports(1)
    given = {"GATEWAY_PORT": str(port), "GATEWAY_MODEL_REPOSITORY": str(repository)} | environment
    command = [sys.executable, "-m", "gateway"]
    with run("gateway", command, port, "/health/ready", log, given, {"GATEWAY_PORT": port}) as server:
        yield server


@contextmanager
def run(
    name: str,
    command: Sequence[str],
    port: int,
    health: str,
    log: Path,
    environment: Mapping[str, str],
    ports: Mapping[str, int],
    folder: str = ".",
) -> Iterator[Server]:
    """Start a server in a folder, and wait until its health URL answers.

    Raises:
        BenchmarkError: it does not get ready.
    """
    with start(command, os.environ | environment, log, folder) as process:
        server = Server(name, port, psutil.Process(process.pid), ports)
        try:
            wait_until_ready(process, f"http://{HOST}:{port}{health}", log)
            yield server
        finally:
            with suppress(psutil.NoSuchProcess):
                server.go_on()


@contextmanager
def start(
    command: Sequence[str], environment: Mapping[str, str], log: Path, folder: str = "."
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process with its output in a file; stop it at the end, by force if need be.

    Args:
        command: with its arguments.
        environment: all of its variables.
        log: where the output goes.
        folder: where it runs.
    """
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=folder)  # noqa: S603
    try:
        yield process
    finally:
        process.send_signal(SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(
    process: "subprocess.Popen[bytes] | psutil.Popen", url: str, log: Path, timeout_s: float = START_TIMEOUT_S
) -> None:
    """Wait until a server answers at a URL with success.

    Raises:
        BenchmarkError: it ends, or the time does, before.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - our own server
                return
        except urllib.error.HTTPError as refusal:
            refusal.close()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        time.sleep(0.2)
    raise BenchmarkError(f"no answer from {url}; the end of {log}:\n" + log.read_text()[-2000:])


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]
