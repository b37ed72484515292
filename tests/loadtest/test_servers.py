import sys
import time
from pathlib import Path

import psutil
import pytest

from loadtest.tools import servers
from loadtest.tools.client import BenchmarkError
from loadtest.tools.servers import Server, label, role

SPIN = [sys.executable, "-c", "while True: pass"]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("/x/tritonserver --model-repository=r", "triton"),
        ("/x/triton_python_backend_stub /x/model.py triton_python_backend", "model"),
        ("python -m gateway", "gateway"),
        ("python -W ignore -m gateway.images.worker", "decoder"),
        ("python -m embedded", "server"),
    ],
)
def test_role_is_told_by_the_command(command: str, expected: str) -> None:
    assert role(command) == expected


def test_a_model_is_labelled_with_its_name() -> None:
    command = ["/x/triton_python_backend_stub", "/y/models/bert/3/model.py", "triton_python_backend_shm_region"]
    assert label("model", command) == "model bert"
    assert label("gateway", ["python", "-m", "gateway"]) == "gateway"


def test_halted_server_takes_no_time() -> None:
    process = psutil.Popen(SPIN)
    server = Server("spin", 0, process, {})

    def used(seconds: float) -> float:
        before = server.cpu_s()["server"]
        time.sleep(seconds)
        return server.cpu_s()["server"] - before

    try:
        assert used(0.5) > 0.05
        server.halt()
        assert used(0.5) == 0
        server.go_on()
        assert used(0.5) > 0.05
    finally:
        process.kill()
        process.wait()


def test_server_that_does_not_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as output:
        process = psutil.Popen([sys.executable, "-m", "nothing_of_that_name"], stderr=output)
    with pytest.raises(BenchmarkError, match="No module named"):
        servers.wait_until_ready(process, "http://127.0.0.1:9/health", log)
