"""Builds the images as `docker compose build` would, by buildah, which needs no daemon.

No registry is asked: a Debian from debootstrap bears the name of the base that the Dockerfiles build on.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

BASE = "docker.io/library/debian:12-slim"
NEEDED = ("buildah", "debootstrap")


@dataclass(frozen=True)
class Builder:
    """Buildah, with a storage of its own."""

    storage: Path
    volumes: tuple[str, ...]
    """What builds see of the host: how its pip finds packages."""

    def __call__(self, *arguments: str) -> str:
        return self.run(*arguments).strip()

    def command(self, *arguments: str) -> list[str]:
        folders = [f"--root={self.storage / 'root'}", f"--runroot={self.storage / 'run'}"]
        return ["buildah", "--storage-driver=vfs", *folders, *arguments]

    def run(self, *arguments: str) -> str:
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    def build(self, name: str) -> str:
        """Build images/NAME.Dockerfile."""
        volumes = [f"--volume={volume}" for volume in self.volumes]
        options = ["--isolation=chroot", "--pull-never", "--network=host", "--layers=false", *volumes]
        self.run("bud", *options, f"--file=images/{name}.Dockerfile", f"--tag=conch-{name}", ".")
        return f"conch-{name}"

    def megabytes(self, image: str) -> float:
        """Of all layers."""
        number, unit = self("images", "--format={{.Size}}", image).split()
        return float(number) * {"kB": 1e-3, "MB": 1, "GB": 1e3}[unit]


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing or os.geteuid():
        pytest.fail(f"run it as root, with {' and '.join(NEEDED)}: apt-get install {' '.join(NEEDED)}")
    folder = tmp_path_factory.mktemp("images")
    builder = Builder(folder, tuple(volumes(folder)))
    debian = folder / "debian"
    bootstrap = [str(shutil.which("debootstrap")), "--variant=minbase", "bookworm", str(debian)]
    subprocess.run(bootstrap, check=True, capture_output=True)
    container = builder("from", "scratch")
    builder("add", container, str(debian), "/")
    builder("commit", "--rm", container, BASE)
    shutil.rmtree(debian)
    yield builder
    builder("umount", "--all")
    shutil.rmtree(folder)


def volumes(folder: Path) -> Sequence[str]:
    """The host's configuration of pip, and what it names, below /host: packages write into the folders of their own."""
    listing = subprocess.run(
        ["python3", "-m", "pip", "config", "list"],  # noqa: S607 - whichever the user has
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    configuration = folder / "pip.conf"
    settings, named = dict[str, str](), set[str]()
    for name, value in re.findall(r"([\w-]+)='(.*)'$", listing, re.MULTILINE):
        named |= {path for path in re.findall(r"^(/\S+)", value) if Path(path).exists()}
        # The files of an index lie beside it.
        named |= {str(Path(path).parent) for path in re.findall(r"file://(/\S+)", value) if Path(path).exists()}
        settings[name] = re.sub("(^|file://)/", "\\1/host/", value)
    configuration.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    return [f"{configuration}:/etc/pip.conf:ro", *(f"{path}:/host{path}:ro" for path in sorted(named))]
