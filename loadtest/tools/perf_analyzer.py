"""NVIDIA's perf_analyzer, which sends token ids to Triton over gRPC, or texts to the gateway over HTTP."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec
import orjson
from rich.console import Console

from embedded.triton import find_wheel
from export.runtime.contract import Row
from loadtest.perf import STABILITY, measure
from loadtest.tools.client import BenchmarkError
from loadtest.tools.servers import HOST, Server
from loadtest.tools.workloads import EMBEDDING_MODEL, Workload

FOLDER = Path(".perf")
WHEEL = "tritonclient==2.51.0"
"""The newest whose perf_analyzer runs with glibc 2.35."""
LIBRARIES = {"libb64": "libb64.so.0d", "libcudart": "libcudart.so.12"}
"""The other libraries that perf_analyzer loads, by the first part of their file names in nvidia-pytriton."""

console = Console(highlight=False)


class Perf(msgspec.Struct, frozen=True):
    """A line of perf_analyzer's report."""

    target: str
    """"triton" or "gateway"."""
    workload: str
    round: int
    load: str
    """Clients, or requests a second."""
    requests_per_second: float
    latency_ms: dict[str, float]
    server_ms: dict[str, float]
    """Mean time of a request in Triton, by stage; empty at the gateway."""


class Analyzer:
    """perf_analyzer, with the texts of a workload."""

    def __init__(
        self, server: Server, scratch: Path, interval_ms: int = 5000, trials: int = 4, stability: int = STABILITY
    ) -> None:
        """Fetch the program if need be.

        Args:
            server: Triton and the gateway.
            scratch: a folder for its files.
            interval_ms: the time of a window; it measures until three windows agree.
            trials: windows after which it gives up.
            stability: percent by which windows that agree may differ.
        """
        self._server = server
        self._scratch = scratch
        windows = {"measurement-interval": interval_ms, "max-trials": trials, "stability-percentage": stability}
        self._windows = [text for name, value in windows.items() for text in (f"--{name}", str(value))]
        self._program = fetch()
        self._environment = os.environ | {"LD_LIBRARY_PATH": str(FOLDER.resolve() / "lib")}

    def triton(
        self, name: str, rows: Sequence[Row], load: Sequence[str], number: int = 0, model: str = EMBEDDING_MODEL
    ) -> list[Perf]:
        """Send rows of token ids to Triton, one a request, or as many of one length as `load` says by `-b`."""
        data = [
            {
                "input_ids": {"content": ids.tolist(), "shape": [len(ids)]},
                "length": {"content": [len(ids)], "shape": [1]},
            }
            for (ids,) in rows
        ]
        url = f"{HOST}:{self._server.ports['TRITON_GRPC_PORT']}"
        return self._run("triton", name, number, data, ["-m", model, "-i", "grpc", "-u", url, "--async", *load])

    def gateway(self, name: str, workload: Workload, load: Sequence[str], number: int = 0) -> list[Perf]:
        """Send bodies to the gateway."""
        data = [{"payload": [orjson.loads(body)]} for body in workload.bodies]
        endpoint = ["--endpoint", workload.path.removeprefix("/"), "-u", f"{HOST}:{self._server.port}", "--async"]
        return self._run(
            "gateway", name, number, data, ["-m", workload.model, "--service-kind", "openai", *endpoint, *load]
        )

    def command(self, model: str) -> None:
        """Run `python -m loadtest.perf` as people do on their hosts.

        Raises:
            BenchmarkError: it fails.
        """
        url = f"{HOST}:{self._server.ports['TRITON_GRPC_PORT']}"
        options = [f"--model={model}", f"--url={url}", "--concurrency-range=1:9:8", *self._windows]
        path = f"{self._program.parent}{os.pathsep}{os.environ['PATH']}"
        command = [sys.executable, "-m", "loadtest.perf", *options]
        if subprocess.run(command, env=self._environment | {"PATH": path}, check=False).returncode:  # noqa: S603
            raise BenchmarkError(f"python -m loadtest.perf fails for {model}")

    def _run(
        self, target: str, name: str, number: int, data: Sequence[Mapping[str, object]], arguments: Sequence[str]
    ) -> list[Perf]:
        command = [str(self._program), *arguments, *self._windows]
        report = measure(command, data, self._scratch, self._environment)
        if not report.measurements:
            if not report.is_unstable:
                raise RuntimeError(f"perf_analyzer: {report.output[-2000:]}")
            console.print(f"{target:8} {name:10} never came to rest: {' '.join(arguments[-4:])}")
        for run in report.measurements:
            console.print(
                f"{target:8} {name:10} {run.load:>10} {run.requests_per_second:8.1f} req/s"
                f"  p50 {run.latency_ms['p50']:7.2f} ms  p99 {run.latency_ms['p99']:7.2f} ms"
            )
        return [Perf(target, name, number, **asdict(run)) for run in report.measurements]


def fetch() -> Path:
    """The program, out of a wheel that is downloaded once, and links to the libraries that it needs, out of another.

    Raises:
        BenchmarkError: it cannot be downloaded.
    """
    program = FOLDER.resolve() / "perf_analyzer"
    (FOLDER / "lib").mkdir(parents=True, exist_ok=True)
    if not program.exists():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(FOLDER), WHEEL]
        if subprocess.run(pip, check=False).returncode:  # noqa: S603 - our own command
            raise BenchmarkError(f"perf_analyzer cannot be downloaded: copy {program} from a machine that has it")
        (wheel,) = FOLDER.glob("tritonclient-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (member,) = (name for name in archive.namelist() if name.endswith("/bin/perf_analyzer"))
            program.write_bytes(archive.read(member))
    program.chmod(0o755)
    beside = find_wheel().parents[1] / "nvidia_pytriton.libs"
    for beginning, wanted in LIBRARIES.items():
        (found,) = beside.glob(f"{beginning}-*")
        (FOLDER / "lib" / wanted).unlink(missing_ok=True)
        (FOLDER / "lib" / wanted).symlink_to(found.resolve())
    return program
