import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from export.errors import SourceError
from export.manifest import ModelSpec
from export.source import resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def spec(source: str) -> ModelSpec:
    return ModelSpec(name="a", task="text-embedding", source=source)


def test_package_source_is_its_folder_and_version(minilm: ModelSpec) -> None:
    source = resolve(minilm)
    assert (source.folder / "model.safetensors").is_file()
    assert source.revision == "0.1.0"


def test_local_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).touch()
    assert resolve(spec(str(tmp_path))).folder == tmp_path


def test_missing_package_is_named() -> None:
    with pytest.raises(SourceError, match="package no_such_package is not installed"):
        resolve(spec("package:no_such_package/model"))


def test_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds no config\.json"):
        resolve(spec(str(tmp_path)))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    for file in ("config.json", "pytorch_model.bin"):
        (tmp_path / file).touch()
    with pytest.raises(SourceError, match=r"no .*safetensors weights"):
        resolve(spec(str(tmp_path)))


def test_hub_model_in_the_cache_resolves_offline_to_its_commit(tmp_path: Path, minilm_folder: Path) -> None:
    # The cache is found through the environment when the library is first imported: hence a process of its own.
    cached = tmp_path / "models--owner--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(COMMIT)
    shutil.copytree(minilm_folder, cached / "snapshots" / COMMIT)
    code = (
        "from export.manifest import ModelSpec; from export.source import resolve;"
        "print(resolve(ModelSpec(name='a', task='text-embedding', source='owner/model')).revision)"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == COMMIT


def test_hub_name_of_a_wrong_form_is_one_sentence(minilm: ModelSpec) -> None:
    with pytest.raises(SourceError, match="is not on the hub or in its cache"):
        resolve(replace(minilm, source="three/part/name"))
