"""The wheel holds the four packages, and they work from it alone."""

import os
import re
import socket
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import Parser
from pathlib import Path

import httpx2
import pytest

from gateway import __version__

PACKAGES = ("bulk", "embedded", "export", "gateway")
START_TIMEOUT_S = 120


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by the command of `make wheel`."""
    folder = tmp_path_factory.mktemp("dist")
    run(Path(sys.executable), "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder), cwd=Path())
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the wheel, and sees the dependencies that are installed here."""
    environment = tmp_path_factory.mktemp("environment")
    run(Path(sys.executable), "-m", "venv", "--without-pip", str(environment), cwd=environment)
    python = environment / "bin" / "python"
    pip = ("-m", "pip", "--python", str(python), "--disable-pip-version-check", "install", "--no-deps", "--no-index")
    run(Path(sys.executable), *pip, str(wheel), cwd=environment)
    packages = environment.joinpath("lib", f"python{sys.version_info.major}.{sys.version_info.minor}", "site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return python


def environment_without(*prefixes: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", *prefixes))}


def run(python: Path, *arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [python, *arguments], cwd=cwd, env=environment_without(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {Path(name) for name in archive.namelist()}
    dist_info = f"conch-{__version__}.dist-info"
    assert {file.parts[0] for file in held} == {*PACKAGES, dist_info}
    ours = {file for package in PACKAGES for file in Path(package).rglob("*") if file.is_file()}
    assert {file for file in held if file.parts[0] != dist_info} == {
        file for file in ours if "__pycache__" not in file.parts
    }
    assert not [file for file in held if {"tests", "pictogram"} & set(file.parts)]
    assert held >= {Path(package) / "py.typed" for package in PACKAGES}
    assert Path("gateway/pages/index.html") in held


def test_metadata_is_complete(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = Parser().parsestr(archive.read(f"conch-{__version__}.dist-info/METADATA").decode())
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"] == "Conch contributors"
    assert "LICENSE" in metadata.get_all("License-File", [])
    urls = dict(url.split(", ") for url in metadata.get_all("Project-URL", []))
    assert urls.keys() >= {"Documentation", "Changelog", "Issues", "Source"}
    readme = str(metadata.get_payload())
    assert readme.startswith("# Conch")
    assert re.findall(r"\]\(https://github\.com/", readme)
    assert not re.findall(r"\]\((?!https?:|#)[^)]*\)", readme)  # on PyPI, they would lead nowhere


def test_packages_are_imported_from_the_wheel(python: Path, tmp_path: Path) -> None:
    names = ", ".join(PACKAGES)
    found = run(python, "-c", f"import {names}\nfor each in ({names}): print(each.__file__)", cwd=tmp_path)
    assert len(found.splitlines()) == len(PACKAGES)
    assert all(Path(line).is_relative_to(python.parent.parent) for line in found.splitlines())


@pytest.mark.parametrize("command", ["export", "bulk"])
def test_command_explains_itself(command: str, python: Path, tmp_path: Path) -> None:
    assert run(python, "-m", command, "--help", cwd=tmp_path).startswith(f"usage: python -m {command}")


@contextmanager
def gateway(python: Path, folder: Path) -> Iterator[httpx2.Client]:
    """A client of a gateway without a Triton."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {"GATEWAY_PORT": str(port), "GATEWAY_MODEL_REPOSITORY": str(folder), "GATEWAY_TRITON_URL": "127.0.0.1:1"}
    process = subprocess.Popen(
        [python, "-m", "gateway"],
        cwd=folder,
        env=environment_without("GATEWAY_", "OTEL_") | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
            wait_for(client, process)
            yield client
    finally:
        process.terminate()
        process.communicate(timeout=START_TIMEOUT_S)


def wait_for(client: httpx2.Client, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            client.get("/health/live")
        except httpx2.ConnectError:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


def test_gateway_starts_from_the_wheel(python: Path, tmp_path: Path) -> None:
    with gateway(python, tmp_path) as client:
        assert client.get("/health/live").status_code == 200
        page = client.get("/")
        assert page.status_code == 200
        assert "<title>" in page.text
        assert client.get("/docs").status_code == 200
