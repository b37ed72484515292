"""Starts Triton from the nvidia-pytriton wheel, of which only the files are used, not the Python API."""

import ctypes.util
import importlib.util
import os
import platform
import re
import secrets
import shutil
import socket
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gateway.telemetry.configure import is_disabled

MACHINES = ("x86_64", "aarch64")
"""The machines that the wheel is built for."""
LOOPBACK = "127.0.0.1"
EXIT_TIMEOUT_S = 3
ADMIN_HEADER = "admin-key"
GUARDED = "inference,metadata,model-config,model-repository,shared-memory,statistics,trace,logging"
"""All of Triton's HTTP API except health requires the admin header. Web pages in a browser on this machine can send
requests to loopback, and loading a model runs its code, but pages cannot send this header."""


class UnsupportedError(Exception):
    """The embedded Triton cannot run on this machine or with these settings. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Triton's ports, on loopback only: Triton 2.51 has known vulnerabilities (docs/security.md)."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read TRITON_HTTP_PORT, TRITON_GRPC_PORT and TRITON_METRICS_PORT."""
        default = cls()
        return cls(
            http=_port(environ, "TRITON_HTTP_PORT", default.http),
            grpc=_port(environ, "TRITON_GRPC_PORT", default.grpc),
            metrics=_port(environ, "TRITON_METRICS_PORT", default.metrics),
        )


def _port(environ: Mapping[str, str], variable: str, default: int) -> int:
    text = environ.get(variable, str(default))
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise UnsupportedError(f"{variable}={text} must be a port number between 1 and 65535")
    return int(text)


def check_ports(ports: Mapping[str, int]) -> None:
    """Raise UnsupportedError if two ports are equal or one is in use. `ports` maps variables to ports."""
    for variable, port in ports.items():
        twins = [name for name, other in ports.items() if other == port]
        if len(twins) > 1:
            raise UnsupportedError(f"{' and '.join(twins)} are both {port}; set one of them to another port")
        _check_free(port, variable)


def _check_free(port: int, variable: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as exc:
            raise UnsupportedError(
                f"port {port} is not available ({exc.strerror}); set {variable} to another port"
            ) from exc


@dataclass(frozen=True, slots=True)
class Triton:
    """How to start Triton: its command line and environment."""

    command: list[str]
    environment: dict[str, str]
    shared_memory_prefix: str
    """Prefix of the files in /dev/shm that Triton shares with its models. They stay if Triton is killed."""

    @classmethod
    def prepare(cls, repository: Path, ports: Ports, scratch: Path) -> Self:
        """Check the models and this machine, and set up the folders that Triton reads.

        Args:
            repository: folder of the entries.
            ports: ports to listen on.
            scratch: an empty folder. Its path must not contain a space: the python backend starts its stub through an
                unquoted shell command.

        Raises:
            UnsupportedError: the platform, the Python version or the path is not supported, or the wheel or the models
                are missing.
        """
        models = _models(repository)
        if any(character.isspace() for character in str(scratch)):
            raise UnsupportedError(
                f"the path of the temporary folder {scratch} contains a space: set TMPDIR to another folder"
            )
        wheel = find_wheel()
        version = "{}.{}".format(*sys.version_info)
        stub = wheel / "python_backend_stubs" / version / "triton_python_backend_stub"
        if not stub.is_file():
            raise UnsupportedError(f"nvidia-pytriton does not support Python {version}; use 3.11, 3.12 or 3.13")
        shutil.copytree(wheel / "backends", scratch / "backends")
        shutil.copy(stub, scratch / "backends" / "python")
        (scratch / "models").symlink_to(repository.resolve())
        prefix = f"conch-{os.getpid()}-{ports.grpc}-"
        return cls(
            command=[
                str(wheel / "bin" / "tritonserver"),
                "--disable-auto-complete-config",
                *(f"--{name}={value}" for name, value in _options(scratch, ports, prefix).items()),
                *_tracing(os.environ),
                *(f"--load-model={name}" for name in models),  # not "*", which fails on a config without a built model
            ],
            environment=_environment(wheel, _libpython(version)),
            shared_memory_prefix=prefix,
        )

    def clean_up(self) -> None:
        """Remove the shared memory that a killed Triton has left."""
        for file in Path("/dev/shm").glob(f"{self.shared_memory_prefix}*"):  # noqa: S108 - the backend's choice
            file.unlink(missing_ok=True)


def _models(repository: Path) -> list[str]:
    """The names of the exported models. Raises UnsupportedError if there are none, or for another backend."""
    models = sorted(version.parent.name for version in repository.glob("*/1"))
    if not models:
        raise UnsupportedError(
            f"{repository} contains no exported models: run python -m export --repository {repository}"
        )
    for model in models:
        _check_backend(repository / model / "config.pbtxt")
    return models


def _options(scratch: Path, ports: Ports, prefix: str) -> Mapping[str, object]:
    return {
        "model-repository": scratch / "models",
        "model-control-mode": "explicit",
        "backend-directory": scratch / "backends",
        "backend-config": f"python,shm-region-prefix-name={prefix}",
        "http-address": LOOPBACK,
        "http-port": ports.http,
        "http-restricted-api": f"{GUARDED}:{ADMIN_HEADER}={admin_key(os.environ)}",
        "grpc-address": LOOPBACK,
        "grpc-port": ports.grpc,
        # Allow the gateway's keepalive pings every 10 s. By default Triton closes the connection at the second.
        "grpc-http2-min-recv-ping-interval-without-data": 5000,
        "grpc-http2-max-ping-strikes": 0,
        "metrics-address": LOOPBACK,
        "metrics-port": ports.metrics,
        "exit-timeout-secs": EXIT_TIMEOUT_S,
    }


def admin_key(environ: Mapping[str, str]) -> str:
    """The key of Triton's HTTP API: TRITON_ADMIN_KEY, or a random one that nobody knows."""
    return environ.get("TRITON_ADMIN_KEY") or secrets.token_hex(24)


def _tracing(environ: Mapping[str, str]) -> list[str]:
    """Options to send Triton's spans to the OpenTelemetry collector, if one is configured."""
    endpoint = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not endpoint or is_disabled(environ):
        return []
    settings = {
        "mode": "opentelemetry",
        "rate": 2**31 - 1,
        "level": "TIMESTAMPS",
        "opentelemetry,url": f"{endpoint.rstrip('/')}/v1/traces",
        "opentelemetry,resource": "service.name=triton",
    }
    return [f"--trace-config={name}={value}" for name, value in settings.items()]


def _check_backend(config: Path) -> None:
    text = config.read_text() if config.is_file() else ""
    backend = re.search(r'^backend: "(\w+)"$', text, re.MULTILINE)
    if backend and backend[1] != "python":
        raise UnsupportedError(
            f"{config.parent} needs Triton's {backend[1]} backend, which the embedded Triton does not have: move it to"
            " another repository"
        )


def find_wheel() -> Path:
    """The folder of Triton in the nvidia-pytriton wheel.

    Raises:
        UnsupportedError: the wheel is not installed, or does not support this platform.
    """
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        raise UnsupportedError(
            "the embedded Triton requires Linux on x86-64 or arm64; this machine is"
            f" {sys.platform} on {platform.machine()}"
        )
    # Not imported: its Python code needs packages that are not installed.
    found = importlib.util.find_spec("pytriton")
    if found is None or not found.submodule_search_locations:
        raise UnsupportedError(
            "the Python package nvidia-pytriton, which contains Triton, is not installed: run make install"
        )
    return Path(found.submodule_search_locations[0]) / "tritonserver"


def _libpython(version: str) -> Path | None:
    """The folder of libpython, which the stub links to; None if the loader finds it or the wheel has it."""
    name = f"libpython{version}.so.1.0"
    folder = Path(sysconfig.get_config_var("LIBDIR"))
    if (folder / name).is_file():
        return folder
    if version == "3.13" or ctypes.util.find_library(f"python{version}"):
        return None
    raise UnsupportedError(
        f"Triton's python backend needs {name}, which is missing: run apt-get install libpython{version}"
    )


def _environment(wheel: Path, libpython: Path | None) -> dict[str, str]:
    libraries = [str(folder) for folder in (libpython, wheel.parent.parent / "nvidia_pytriton.libs") if folder]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        # The stub uses the packages of the first python3 in PATH; it ignores PYTHONPATH.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    }
