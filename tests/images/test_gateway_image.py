import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from loadtest.tools.servers import free_ports, wait_until_ready
from tests.images.conftest import BASE, Builder
from tests.serving import serve

OWN_LAYERS_MB = 250


@pytest.fixture(scope="module")
def image(builder: Builder) -> str:
    return builder.build("gateway")


@pytest.fixture(scope="module")
def container(builder: Builder, image: str) -> str:
    return builder("from", "--pull-never", image)


@pytest.fixture(scope="module")
def root(builder: Builder, container: str) -> Path:
    """The container's file system."""
    return Path(builder("mount", container))


def test_own_layers_are_small(builder: Builder, image: str) -> None:
    assert builder.megabytes(image) - builder.megabytes(BASE) < OWN_LAYERS_MB


def test_no_tools_to_build_with_are_left(root: Path) -> None:
    there = {path.name for folder in ("usr/bin", "venv/bin") for path in (root / folder).iterdir()}
    assert "python3" in there
    assert not there & {"gcc", "cc", "make", "pip", "pip3", "git"}


def test_nothing_heavy_is_installed(root: Path) -> None:
    (packages,) = root.glob("venv/lib/python3*/site-packages")
    assert not {"torch", "transformers", "openvino", "onnxruntime", "pytest"} & {
        path.name for path in packages.iterdir()
    }


def test_it_runs_as_nobody_who_owns_anything(builder: Builder, image: str, root: Path) -> None:
    config = json.loads(builder("inspect", "--type=image", image))["OCIv1"]["config"]
    assert config["User"] == "10001:10001"
    assert not [path for path in (root / "app", root / "venv") if path.stat().st_uid == 10001]


@pytest.fixture(scope="module")
def url(builder: Builder, container: str, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the image's gateway, before an embedded Triton."""
    folder = tmp_path_factory.mktemp("gateway")
    keys = folder / "keys"
    keys.write_text("secret\n")
    (port,) = free_ports(1)
    with serve(repository) as triton, (folder / "log").open("wb") as log:
        settings = {
            "GATEWAY_PORT": str(port),
            "GATEWAY_TRITON_URL": triton.triton_url,
            "GATEWAY_API_KEYS_FILE": "/etc/conch/keys",
        }
        process = subprocess.Popen(
            builder.command(
                "run",
                "--isolation=chroot",
                "--user=10001:10001",
                f"--volume={repository.resolve()}:/models:ro",
                f"--volume={keys}:/etc/conch/keys:ro",
                *(f"--env={name}={value}" for name, value in settings.items()),
                container,
                "--",
                "python",
                "-m",
                "gateway",
            ),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until_ready(process, f"{url}/health/ready", folder / "log", timeout_s=60)
            yield url
        finally:
            process.terminate()
            process.wait(30)


def test_it_serves_requests_through_a_real_triton(url: str) -> None:
    headers = {"authorization": "Bearer secret"}
    answer = httpx2.post(f"{url}/v1/embeddings", json={"input": ["a shell", "a trumpet"]}, headers=headers)
    assert [len(item["embedding"]) for item in answer.json()["data"]] == [384, 384]


def test_it_decodes_images(url: str) -> None:
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEUlEQVR4nGP4z8AARAwQCgAf7gP9i18U1AAAAABJRU5ErkJggg=="
    answer = httpx2.post(
        f"{url}/v1/embeddings",
        json={"input": {"image": pixel}, "model": "minilm-pictogram"},
        headers={"authorization": "Bearer secret"},
    )
    assert answer.status_code == 200, answer.text


def test_keys_from_its_secret_are_asked_for(url: str) -> None:
    assert httpx2.post(f"{url}/v1/embeddings", json={"input": "a"}).status_code == 401


def test_it_wrote_nothing_into_its_file_system(url: str, root: Path) -> None:
    assert httpx2.get(f"{url}/health/live").status_code == 200
    assert not [
        path
        for folder in ("app", "venv", "var", "etc", "home")
        for path in (root / folder).rglob("*")
        if not path.is_symlink() and path.stat().st_uid == 10001
    ]
