"""A Docker engine of the tests' own, and the images that a registry would give it.

No registry of images is asked. A Debian from debootstrap bears the name of the base, Triton out of its wheel that of
NVIDIA's image, and Debian's Prometheus that of Prometheus's. Builds find packages as this machine's pip does.
"""

import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.waiting import eventually

BASE = "docker.io/library/debian:12-slim"
HERE = Path(__file__).parent
MIRROR_PORT = 3199
"""Always the same: it is part of the base image, and with it of what builds may take from their cache."""


def docker(host: str, *arguments: str) -> str:
    """What a command of Docker prints."""
    done = subprocess.run(
        ["docker", *arguments],  # noqa: S607 - whichever the user has
        env=os.environ | {"DOCKER_HOST": host, "DOCKER_BUILDKIT": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout.strip()


@contextmanager
def engine() -> Iterator[str]:
    """The address of the engine that DOCKER_HOST names, or of one that is started, and removed with all that it has."""
    if host := os.environ.get("DOCKER_HOST"):
        yield host
        return
    folder = Path(tempfile.mkdtemp(prefix="conch-engine-"))  # short, because a socket's name may have 107 characters
    host = f"unix://{folder}/socket"
    options = [f"--data-root={folder}/data", f"--exec-root={folder}/run", f"--pidfile={folder}/pid", f"--host={host}"]
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(["dockerd", "--bridge=none", *options], stdout=log, stderr=log)  # noqa: S607
    try:
        eventually((folder / "socket").exists, lambda: (folder / "log").read_text()[-4000:])
        yield host
    finally:
        daemon.terminate()
        daemon.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def mirror(folder: Path) -> Iterator[str]:
    """The settings of pip for builds. The folders and files that this machine's settings name are served to them."""
    listing = subprocess.run(
        ["python3", "-m", "pip", "config", "list"],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    settings: dict[str, str] = {}
    for name, value in re.findall(r"([\w-]+)='(.*)'$", listing, re.MULTILINE):
        given = [re.sub("^file://", "", part) for part in value.split()]
        settings[name] = " ".join(_served(folder, Path(part)) if part.startswith("/") else part for part in given)
    if settings:
        settings |= {"cert": "/etc/conch-tests.crt", "trusted-host": "127.0.0.1"}
    with ThreadingHTTPServer(("127.0.0.1", MIRROR_PORT), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield "[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())
        finally:
            server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and says nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


def _served(folder: Path, path: Path) -> str:
    link = folder / path.relative_to("/")
    link.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not link.exists():
        link.symlink_to(path)
    # An index is a folder beside the one with its files.
    if path.is_dir():
        for sibling in path.parent.iterdir():
            beside = link.parent / sibling.name
            if not beside.exists():
                beside.symlink_to(sibling)
    return f"http://127.0.0.1:{MIRROR_PORT}{path}" + ("/" if path.is_dir() else "")


def add_images(host: str, pip: str, folder: Path) -> None:
    """Build what registries would give, unless the engine has it."""
    variables = dict(re.findall(r"\$\{(\w+_IMAGE):-([^}]+)\}", Path("docker-compose.yml").read_text()))
    if not docker(host, "images", "--quiet", BASE.removeprefix("docker.io/library/")):
        debian = Path(tempfile.mkdtemp(prefix="conch-debian-"))  # debootstrap breaks at white space
        bootstrap = ["debootstrap", "--variant=minbase", "bookworm", str(debian)]
        subprocess.run(bootstrap, check=True, capture_output=True)
        (debian / "etc/pip.conf").write_text(pip)
        debian.chmod(0o755)
        certificates = Path("/etc/ssl/certs/ca-certificates.crt")
        if certificates.is_file():
            shutil.copy(certificates, debian / "etc/conch-tests.crt")
        archive = folder / "debian.tar"
        subprocess.run(["tar", "--create", f"--file={archive}", f"--directory={debian}", "."], check=True)  # noqa: S607
        docker(host, "import", str(archive), BASE)
        archive.unlink()
        shutil.rmtree(debian)
    (wheel,) = re.findall("^nvidia-pytriton==.*$", Path("requirements/serve.txt").read_text(), re.MULTILINE)
    for name, image, arguments in (
        ("triton", variables["TRITON_IMAGE"], [f"--build-arg=WHEEL={wheel}"]),
        ("prometheus", variables["PROMETHEUS_IMAGE"], []),
    ):
        file = f"--file={HERE / name}.Dockerfile"
        docker(host, "build", "--network=host", *arguments, file, f"--tag={image}", str(HERE))
