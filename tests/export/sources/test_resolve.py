import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from export.errors import SourceError
from export.manifest import ModelSpec
from export.sources.resolve import describe, is_remote, resolve, revision

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def spec(source: str) -> ModelSpec:
    return ModelSpec(name="a", task="text-embedding", source=source)


def test_package_source_is_its_folder_and_version(minilm: ModelSpec) -> None:
    source = resolve(minilm)
    assert (source.folder / "model.safetensors").is_file()
    assert source.revision == "0.1.0"


def test_local_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    folder(tmp_path, "config.json", "model.safetensors")
    assert resolve(spec(str(tmp_path))).folder == tmp_path


def test_names_of_files_may_be_of_any_bytes(tmp_path: Path) -> None:
    folder(tmp_path, "config.json", "model.safetensors")
    before = revision(spec(str(tmp_path)))
    (tmp_path / os.fsdecode(b"\xff.md")).write_text("")
    assert revision(spec(str(tmp_path))) != before


def test_config_may_lie_in_the_folder_of_a_module(tmp_path: Path) -> None:
    folder(tmp_path, "modules.json")
    (tmp_path / "modules.json").write_text("[]")
    folder(tmp_path / "0_StaticEmbedding", "model.safetensors")
    assert resolve(spec(str(tmp_path))).folder == tmp_path


def test_missing_package_is_named() -> None:
    with pytest.raises(SourceError, match="package no_such_package is not installed"):
        resolve(spec("package:no_such_package/model"))


def test_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds no config\.json"):
        resolve(spec(str(tmp_path)))


def test_adapter_alone_is_refused(tmp_path: Path) -> None:
    adapter = folder(tmp_path, "adapter_config.json", "adapter_model.safetensors")
    with pytest.raises(SourceError, match=r"^\[a\] source: .* holds an adapter without its base model; merge them$"):
        resolve(spec(str(adapter)))


def folder(path: Path, *files: str) -> Path:
    path.mkdir(exist_ok=True)
    for file in files:
        (path / file).write_text("{}" if file.endswith(".json") else "")
    return path


def test_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"^\[a\] source: .* holds no weights .\*\.safetensors.$"):
        resolve(spec(str(folder(tmp_path, "config.json"))))


def test_pickled_weights_are_refused_unless_the_table_allows_them(tmp_path: Path) -> None:
    pickled = spec(str(folder(tmp_path, "config.json", "pytorch_model.bin")))
    with pytest.raises(
        SourceError, match=r"^\[a\] source: .* in a pickle .*, or set allow_pickle = true \(add: --allow-pickle\)$"
    ):
        resolve(pickled)
    assert resolve(replace(pickled, allow_pickle=True)).folder == tmp_path


def test_description_needs_no_weights(tmp_path: Path) -> None:
    assert describe(spec(str(folder(tmp_path, "config.json")))).folder == tmp_path


def test_safetensors_are_taken_whatever_else_lies_beside_them(tmp_path: Path) -> None:
    both = folder(tmp_path, "config.json", "pytorch_model.bin", "model-00001-of-00002.safetensors")
    assert resolve(spec(str(both))).folder == tmp_path


def pair(text: Path, image: Path) -> ModelSpec:
    return ModelSpec(name="a", task="image-text", source=str(text), image_source=str(image))


def test_image_folder_is_found_as_the_other_is(tmp_path: Path) -> None:
    text, image = (folder(tmp_path / name, "config.json", "model.safetensors") for name in ("text", "image"))
    found = resolve(pair(text, image))
    assert (found.folder, found.image_folder) == (text, image)
    assert found.revision == revision(pair(text, image))
    assert resolve(spec(str(text))).image_folder is None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "holds no config.json"),
        (("config.json",), "holds no weights"),
        (("config.json", "pytorch_model.bin"), "has its weights in a pickle"),
    ],
)
def test_errors_of_the_image_folder_name_its_key(tmp_path: Path, files: tuple[str, ...], message: str) -> None:
    text, image = folder(tmp_path / "text", "config.json", "model.safetensors"), folder(tmp_path / "image", *files)
    with pytest.raises(SourceError, match=rf"^\[a\] image_source: {image} {re.escape(message)}"):
        resolve(pair(text, image))


def test_revision_changes_with_any_file_of_either_folder(tmp_path: Path) -> None:
    text, image = (folder(tmp_path / name, "config.json", "model.safetensors") for name in ("text", "image"))
    states = [revision(pair(text, image))]
    for changed in (text / "model.safetensors", image / "config.json"):
        changed.write_text("changed")
        states.append(revision(pair(text, image)))
    assert len(set(states)) == 3
    assert revision(pair(text, image)) == states[-1]


@pytest.mark.parametrize(
    ("source", "image_source", "remote"),
    [
        ("/text", None, False),
        ("package:name/model", None, False),
        ("owner/model", None, True),
        ("/text", "owner/model", True),
        ("/text", "/image", False),
    ],
)
def test_only_sources_on_the_hub_are_remote(source: str, image_source: str | None, remote: bool) -> None:
    assert is_remote(replace(spec(source), image_source=image_source)) is remote


def test_hub_model_in_the_cache_resolves_offline_to_its_commit(tmp_path: Path, minilm_folder: Path) -> None:
    # The cache is found through the environment when the library is first imported: hence a process of its own.
    cached = tmp_path / "models--owner--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(COMMIT)
    shutil.copytree(minilm_folder, cached / "snapshots" / COMMIT)
    code = (
        "from export.manifest import ModelSpec; from export.sources.resolve import resolve;"
        "print(resolve(ModelSpec(name='a', task='text-embedding', source='owner/model')).revision)"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == COMMIT


def test_revision_that_cannot_be_had_is_in_the_message(tmp_path: Path) -> None:
    code = (
        "from export.manifest import ModelSpec; from export.sources.resolve import resolve;"
        "resolve(ModelSpec(name='a', task='text-embedding', source='owner/model', revision='v9'))"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "SourceError: [a] source: owner/model at revision 'v9' is neither on the hub nor in its cache" in done.stderr


def test_hub_name_of_a_wrong_form_is_one_sentence(minilm: ModelSpec) -> None:
    with pytest.raises(SourceError, match="is neither on the hub nor in its cache"):
        resolve(replace(minilm, source="three/part/name"))
