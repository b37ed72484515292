import contextlib
import os
import socket
import subprocess
import time
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, Signals

import httpx2
import pytest

from embedded.__main__ import gateway_is_healthy
from gateway.settings import Settings
from tests.programs import program
from tests.serving import Server, serve, start
from tests.waiting import eventually


def child(server: Server, name: str) -> int:
    """The process id of one of the server's children."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    (found,) = (int(pid) for pid in children if name in Path(f"/proc/{pid}/cmdline").read_text())
    return found


def wait_until_ready(url: str, *, ready: bool) -> None:
    def is_so() -> bool:
        with contextlib.suppress(httpx2.HTTPError):
            return (httpx2.get(f"{url}/health/ready").status_code == 200) == ready
        return False

    eventually(is_so, "readiness" if ready else "end of readiness")


def test_commands_in_the_greeting_work(repository: Path) -> None:
    program("curl", package="curl")
    with serve(repository) as server:
        server.wait_for("/v1/models")
        commands = [line.strip() for line in server.lines if line.startswith("  curl ")]
        assert [path in command for path, command in zip(("embeddings", "rerank", "models"), commands, strict=True)]
        for command in commands:
            done = subprocess.run(["/bin/sh", "-c", f"{command} --fail"], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("how", [SIGINT, SIGTERM])
def test_signal_stops_both_within_ten_seconds(repository: Path, how: Signals) -> None:
    with serve(repository) as server:
        pids = [child(server, name) for name in ("tritonserver", "gateway")]
        started = time.monotonic()
        server.process.send_signal(how)
        assert server.process.wait(10) == 0
        assert time.monotonic() - started < 10
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        assert not list(Path("/dev/shm").glob(f"conch-{server.process.pid}-*"))  # noqa: S108


def test_killed_triton_is_restarted(repository: Path) -> None:
    with serve(repository) as server, httpx2.Client(base_url=server.url, timeout=30) as client:
        before = client.post("/v1/embeddings", json={"input": "a"}).json()["data"]
        os.kill(child(server, "tritonserver"), SIGKILL)
        wait_until_ready(server.url, ready=False)
        response = client.post("/v1/embeddings", json={"input": "a"})
        assert response.status_code in {200, 503}, response.text
        wait_until_ready(server.url, ready=True)
        assert client.post("/v1/embeddings", json={"input": "a"}).json()["data"] == before


@pytest.mark.slow
def test_gateway_with_a_heartbeat_is_healthy(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        settings = Settings(port=silent.getsockname()[1])
        heartbeat = tmp_path / "heartbeat"
        assert not gateway_is_healthy(settings, heartbeat)
        heartbeat.touch()
        assert gateway_is_healthy(settings, heartbeat)
        os.utime(heartbeat, (0, 0))
        assert not gateway_is_healthy(settings, heartbeat)


def test_port_in_use_exits_with_code_two(repository: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with start(repository, GATEWAY_PORT=port) as server:
            assert server.process.wait(10) == 2
    assert server.lines == [
        f"serve: port {port} is not available (Address already in use); set GATEWAY_PORT to another port\n"
    ]


def test_invalid_setting_exits_with_code_two(repository: Path) -> None:
    with start(repository, GATEWAY_HOST="0.0.0.0") as server:
        assert server.process.wait(10) == 2
    (line,) = server.lines
    assert line.startswith("serve: GATEWAY_HOST=0.0.0.0 is not a loopback address, so API keys are required: set")


def test_failed_start_shows_the_errors_of_triton(tmp_path: Path) -> None:
    (tmp_path / "broken" / "1").mkdir(parents=True)
    (tmp_path / "broken" / "config.pbtxt").write_text('backend: "no-such-backend" max_batch_size: 1')
    with start(tmp_path) as server:
        assert server.process.wait(30) == 1
    assert any("triton exited with code 1 before it was ready" in line for line in server.lines)
    assert any("broken" in line for line in server.lines)
