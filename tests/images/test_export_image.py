import os
import subprocess
from pathlib import Path

import pytest

from tests.images.conftest import Builder

NOBODY = 10001
DEFAULT_MODELS = {"all-minilm-l6-v2", "minilm-late-interaction", "minilm-pictogram-image", "minilm-pictogram-text"}


@pytest.fixture(scope="module")
def container(builder: Builder) -> str:
    return builder("from", "--pull-never", builder.build("export"))


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a new volume of Docker's is: as in the image, the exporter's own."""
    folder = tmp_path_factory.mktemp("models")
    folder.parent.chmod(0o755)
    os.chown(folder, NOBODY, NOBODY)
    return folder


def export(builder: Builder, container: str, volume: Path, *arguments: str) -> str:
    command = ["python", "-m", "export", "--repository", "/models", *arguments]
    where = ["--isolation=chroot", f"--user={NOBODY}:{NOBODY}", f"--volume={volume}:/models"]
    done = subprocess.run(
        builder.command("run", *where, container, "--", *command), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_exports_the_default_models_for_a_gpu_as_nobody(builder: Builder, container: str, volume: Path) -> None:
    table = export(builder, container, volume, "--backend", "onnxruntime")
    entries = [entry for entry in volume.iterdir() if entry.is_dir()]
    assert {entry.name for entry in entries} == DEFAULT_MODELS
    assert all(name in table for name in DEFAULT_MODELS)
    for entry in entries:
        assert 'backend: "onnxruntime"' in (entry / "config.pbtxt").read_text()


def test_triton_which_is_somebody_else_can_read_what_it_wrote(volume: Path) -> None:
    files = [path for path in volume.rglob("*") if path.is_file()]
    assert files
    assert all(path.stat().st_mode & 0o004 for path in files)
    assert all(path.stat().st_mode & 0o005 == 0o005 for path in volume.rglob("*") if path.is_dir())


def test_it_does_nothing_the_second_time(builder: Builder, container: str, volume: Path) -> None:
    def stamps() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in volume.rglob("*")}

    before = stamps()
    export(builder, container, volume, "--backend", "onnxruntime")
    assert stamps() == before
