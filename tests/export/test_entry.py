import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from google.protobuf import text_format
from msgspec.structs import replace
from safetensors.torch import load_file, save_file
from tritonclient.grpc import model_config_pb2 as pb

import export
from export.__main__ import notes
from export.entry import PARTS, PROOF, fingerprint, hidden_files, is_built, versions
from export.errors import ExportError, ParityError, SourceError
from export.manifest import Backend, ModelSpec, Precision
from export.repository import build, check, replace_entries, scratch_folder
from export.verification.choice import Trial
from loadtest.tools import tiny
from tests.export.volumes import without_chmod

WITH_BF16 = pytest.mark.skipif(
    "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
    reason="where the processor does not compute in bf16, there is nothing to be inexact",
)


def silent(_: str) -> None:
    """Progress that nobody follows."""


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def former(repository: Path, *names: str) -> None:
    """Entries from before."""
    for name in names:
        (repository / name).mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text("before")


def untouched(repository: Path) -> bool:
    return files(repository) == {"tiny/config.pbtxt"} and (repository / "tiny" / "config.pbtxt").read_text() == "before"


@pytest.fixture(scope="module")
def fp32(bert: ModelSpec) -> ModelSpec:
    return replace(bert, precision="fp32")


@pytest.fixture(scope="module")
def built(fp32: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one entry, which tests leave as it is."""
    repository = tmp_path_factory.mktemp("built") / "repository"
    build(fp32, repository, silent)
    return repository


@pytest.fixture
def damaged(built: Path, tmp_path: Path) -> Path:
    """A copy of its entry to do things to."""
    return Path(shutil.copytree(built / "tiny", tmp_path / "repository" / "tiny"))


COMMON = {"config.pbtxt", "export.json", "tokenizer.json", "warmup/input_ids", "warmup/length"}
ONNX = {"1/model.onnx", "1/model.onnx.data"}
INT8 = {"1/model.xml", "1/model.bin"}
RUNTIME = {
    "1/model.py",
    *(
        f"1/conch_runtime/{name}.py"
        for name in ("__init__", "contract", "cores", "counts", "engine", "metrics", "packs", "streams")
    ),
}


@pytest.mark.parametrize(
    ("backend", "precision", "settled", "own"),
    [
        ("python", "fp32", "fp32", ONNX | RUNTIME),
        ("python", "int8", "int8", INT8 | RUNTIME),
        ("onnxruntime", None, "fp16", ONNX),
        ("onnxruntime", "fp32", "fp32", ONNX),
        ("tensorrt", None, "fp16", ONNX | {"plan.json", "parity.npz"}),
    ],
)
def test_entry_holds_what_its_backend_needs_and_its_proof(
    bert: ModelSpec, tmp_path: Path, backend: Backend, precision: Precision | None, settled: Precision, own: set[str]
) -> None:
    spec = replace(bert, backend=backend, precision=precision)
    assert not is_built(spec, tmp_path / "repository")
    (entry,) = build(spec, tmp_path / "repository", silent)
    assert entry.folder == tmp_path / "repository" / "tiny"
    assert files(entry.folder) == COMMON | own

    assert json.loads((entry.folder / PROOF).read_text()) == entry.proof
    assert (entry.proof["source"], entry.proof["backend"], entry.proof["precision"]) == (spec.source, backend, settled)
    assert {f"1/{name}" for name in entry.proof["files"]} == {
        name for name in own if name.startswith("1/model.")
    } - RUNTIME
    assert {(one["precision"], one["batches"]) for one in entry.proof["parity"]} == {
        (settled, batches) for batches in ("alone", "in threes", "together")
    }
    (speed,) = entry.proof["speed"]
    assert (speed["precision"], speed["unit"]) == (settled, "tokens")

    config = text_format.Parse((entry.folder / "config.pbtxt").read_text(), pb.ModelConfig())
    assert config.backend == backend
    if backend == "python":
        assert (entry.folder / "1" / config.parameters["graph"].string_value).is_file()
    assert is_built(spec, tmp_path / "repository")


def test_versions_are_of_the_distributions_that_modules_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    information = tmp_path / "onnxruntime_gpu-1.31.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.31.1\n")
    (information / "top_level.txt").write_text("onnxruntime\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = versions.__wrapped__()  # what is installed now
    assert found["onnxruntime-gpu"] == "1.31.1"
    assert {"numpy", "sentence-transformers", "torch"} < set(found)


def test_warmup_files_hold_what_the_config_says_of_them(built: Path) -> None:
    config = text_format.Parse((built / "tiny" / "config.pbtxt").read_text(), pb.ModelConfig())
    types = {pb.TYPE_INT64: np.int64, pb.TYPE_INT32: np.int32}
    for tensor in config.model_warmup[0].inputs.values():
        data = np.fromfile(built / "tiny" / "warmup" / tensor.input_data_file, types[tensor.data_type])
        assert list(data.shape) == list(tensor.dims)


def test_other_users_can_read_an_entry(built: Path) -> None:
    """Triton in its image is one."""
    (weights,) = built.rglob("model.onnx.data")
    assert weights.stat().st_size > 0
    assert all(file.stat().st_mode & 0o444 == 0o444 for file in built.rglob("*"))


def test_volume_that_refuses_chmod_is_written_to(fp32: ModelSpec, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        (entry,) = without_chmod(lambda: build(fp32, tmp_path / "repository", silent))
    finally:
        os.umask(before)
    assert files(entry.folder) == COMMON | ONNX | RUNTIME
    assert set(hidden_files(entry.folder)) == {file for file in entry.folder.rglob("*") if file.is_file()}
    (note,) = notes([entry])
    assert note.startswith(f"{tmp_path}/repository refuses chmod: run Triton as user {os.getuid()}, ")


def test_progress_is_told_of_every_stage_in_order(bert: ModelSpec, tmp_path: Path) -> None:
    stages: list[str] = []
    build(replace(bert, backend="tensorrt"), tmp_path / "repository", stages.append)
    assert list(dict.fromkeys(stages)) == [
        "load tiny",
        "trace tiny",
        "convert tiny to fp16",
        "verify tiny",
        "write tiny",
    ]


def test_entry_of_a_changed_table_is_out_of_date(fp32: ModelSpec, built: Path) -> None:
    assert is_built(fp32, built)
    for changed in (
        replace(fp32, aliases=("other",)),
        replace(fp32, backend="onnxruntime"),
        replace(fp32, max_tokens=50),
    ):
        assert fingerprint(changed) != fingerprint(fp32)
        assert not is_built(changed, built)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the exporter to edit."""
    return Path(shutil.copytree(Path(export.__file__).parent, tmp_path / "export"))


@pytest.mark.parametrize("file", ["packing/rows.py", "runtime/model.py", "verification/samples.txt", "pipeline.py"])
def test_change_of_what_makes_entries_changes_the_fingerprint(fp32: ModelSpec, package: Path, file: str) -> None:
    before = fingerprint(fp32, package)
    assert before == fingerprint(fp32)
    with (package / file).open("a") as code:
        code.write("\n# changed\n")
    assert fingerprint(fp32, package) != before


@pytest.mark.parametrize("file", ["__main__.py", "add.py", "models.toml", "manifest.py", "served/check.py"])
def test_change_of_anything_else_leaves_the_fingerprint(fp32: ModelSpec, package: Path, file: str) -> None:
    before = fingerprint(fp32, package)
    with (package / file).open("a") as code:
        code.write("\n# changed\n")
    assert fingerprint(fp32, package) == before


def test_every_part_of_the_exporter_makes_entries_or_is_known_not_to() -> None:
    """A new module or package goes into `export.entry.PARTS`, or into this list."""
    others = {"__init__.py", "__main__.py", "add.py", "entry.py", "errors.py", "manifest.py", "models.toml", "py.typed"}
    others |= {"preload.py", "repository.py", "served", "sources", "weights"}
    others |= {f"plans/{name}.py" for name in ("__init__", "__main__", "build", "compile", "sweep", "toolkit")}
    package = Path(export.__file__).parent
    files = [file.relative_to(package) for file in package.rglob("*") if file.is_file()]
    files = [file for file in files if "__pycache__" not in file.parts]
    found = {str(file) if file.parts[0] == "plans" else file.parts[0] for file in files}
    assert found == others | set(PARTS)
    assert not others & set(PARTS)


def test_entry_of_changed_weights_is_out_of_date(fp32: ModelSpec, built: Path) -> None:
    weights = Path(fp32.source) / "model.safetensors"
    before = weights.stat().st_mtime_ns
    os.utime(weights, ns=(before, before + 1))
    assert not is_built(fp32, built)
    os.utime(weights, ns=(before, before))
    assert is_built(fp32, built)


@pytest.mark.parametrize("missing", ["export.json", "1/model.onnx", "1/model.onnx.data"])
def test_entry_without_one_of_its_files_is_out_of_date(fp32: ModelSpec, damaged: Path, missing: str) -> None:
    (damaged / missing).unlink()
    assert not is_built(fp32, damaged.parent)


def test_entry_whose_proof_is_cut_short_is_out_of_date(fp32: ModelSpec, damaged: Path) -> None:
    (damaged / PROOF).write_text('{"fingerprint": ')
    assert not is_built(fp32, damaged.parent)


def test_check_measures_again_and_writes_nothing(fp32: ModelSpec, damaged: Path) -> None:
    proof = json.loads((damaged / PROOF).read_text())
    unmeasured = json.dumps(proof | {"parity": [], "speed": []})
    (damaged / PROOF).write_text(unmeasured)
    before = files(damaged)
    (entry,) = check(fp32, damaged.parent, silent)
    assert [(one["batches"], one["output"]) for one in entry.proof["parity"]] == [
        (batches, output) for batches in ("alone", "in threes", "together") for output in ("embedding", "tokens")
    ]
    assert max(one["worst"] for one in entry.proof["parity"]) < 1e-5
    assert entry.proof | {"parity": [], "speed": []} == json.loads(unmeasured)
    assert (damaged / PROOF).read_text() == unmeasured
    assert files(damaged) == before


def test_check_looks_at_what_is_built_whatever_the_table_says_now(fp32: ModelSpec, built: Path) -> None:
    (entry,) = check(replace(fp32, backend="tensorrt", precision="fp16"), built, silent)
    assert {one["precision"] for one in entry.proof["parity"]} == {"fp32"}


def test_check_of_changed_weights_fails(fp32: ModelSpec, damaged: Path) -> None:
    weights = damaged / "1" / "model.onnx.data"
    values = np.fromfile(weights, np.float32)
    (values * np.random.default_rng(0).uniform(0.5, 1.5, len(values))).astype(np.float32).tofile(weights)
    with pytest.raises(
        ParityError, match=r"^verify tiny in fp32, rows alone: embedding: cosine error 0\.\d+ \(largest; limit"
    ):
        check(fp32, damaged.parent, silent)


@pytest.mark.parametrize("damage", ["missing", "truncated", "none"])
def test_check_of_a_graph_that_cannot_be_opened_is_one_sentence(fp32: ModelSpec, damaged: Path, damage: str) -> None:
    weights = damaged / "1" / "model.onnx.data"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:100])
    else:
        (damaged / "1" / "model.onnx").unlink()
    with pytest.raises(SourceError, match=r"^source: OpenVINO cannot run the graph: "):
        check(fp32, damaged.parent, silent)


def test_check_of_what_is_not_built_says_so(fp32: ModelSpec, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=rf"^\[tiny\] {tmp_path}/tiny is not built: run python -m export tiny$"):
        check(fp32, tmp_path, silent)


def test_check_of_a_proof_cut_short_is_one_sentence(fp32: ModelSpec, damaged: Path) -> None:
    (damaged / PROOF).write_text('{"fingerprint": ')
    with pytest.raises(ExportError):
        check(fp32, damaged.parent, silent)


@pytest.fixture(scope="module")
def inexact(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A model that is told by its sharp attention: bf16 rounds its scores by more than they may differ."""
    source = tiny.write_embedding(tmp_path_factory.mktemp("inexact"), "Qwen3", "lasttoken")
    weights = load_file(source / "model.safetensors")
    sharp = {name: weight * 10 if name.endswith("q_norm.weight") else weight for name, weight in weights.items()}
    save_file(sharp, source / "model.safetensors", {"format": "pt"})
    return ModelSpec(name="tiny", task="text-embedding", source=str(source))


@WITH_BF16
def test_model_that_is_not_exact_in_bf16_is_served_in_fp32(inexact: ModelSpec, tmp_path: Path) -> None:
    (entry,) = build(inexact, tmp_path / "repository", silent)
    assert entry.proof["precision"] == "fp32"
    assert {one["precision"] for one in entry.proof["parity"]} == {"fp32"}
    config = text_format.Parse((entry.folder / "config.pbtxt").read_text(), pb.ModelConfig())
    assert config.parameters["precision"].string_value == "f32"
    assert entry.proof["rejected"]["bf16"].startswith("verify tiny in bf16, rows alone: embedding: cosine ")
    assert is_built(inexact, tmp_path / "repository")


@WITH_BF16
def test_failed_verification_leaves_the_repository_as_it_was(inexact: ModelSpec, tmp_path: Path) -> None:
    former(tmp_path / "repository", "tiny")
    with pytest.raises(ParityError, match=r"^verify tiny in bf16, rows alone"):  # asked for, it is not replaced
        build(replace(inexact, precision="bf16"), tmp_path / "repository", silent)
    assert untouched(tmp_path / "repository")
    assert {file.name for file in tmp_path.iterdir()} == {"repository", ".export-repository.lock"}


def test_model_that_is_exact_in_bf16_says_nothing_of_a_precision(bert: ModelSpec, tmp_path: Path) -> None:
    (entry,) = build(bert, tmp_path / "repository", silent)
    config = text_format.Parse((entry.folder / "config.pbtxt").read_text(), pb.ModelConfig())
    assert entry.proof["precision"] == "bf16"
    assert "precision" not in config.parameters  # so that a processor without bf16 computes in fp32


def test_auto_measures_int8_and_serves_what_the_measurement_recommends(bert: ModelSpec, tmp_path: Path) -> None:
    spec = replace(bert, precision="auto")
    stages: list[str] = []
    (entry,) = build(spec, tmp_path / "repository", stages.append)
    assert list(dict.fromkeys(stages)) == [
        "load tiny",
        "trace tiny",
        "verify tiny",
        "quantize tiny",
        "compare tiny in int8",
        "write tiny",
    ]
    trial = Trial(**entry.proof["trial"])
    chosen, other = ("int8", "bf16") if trial.takes_int8 else ("bf16", "int8")  # which depends on the machine
    assert entry.proof["precision"] == chosen
    assert entry.proof["rejected"] == {other: trial.reason}
    assert list(notes([entry])) == [f"tiny is served in {chosen}: {trial.reason}"]
    assert files(entry.folder) == COMMON | RUNTIME | (INT8 if chosen == "int8" else ONNX)
    config = text_format.Parse((entry.folder / "config.pbtxt").read_text(), pb.ModelConfig())
    assert (entry.folder / "1" / config.parameters["graph"].string_value).is_file()
    assert {one["precision"] == "int8" for one in entry.proof["parity"]} == {chosen == "int8"}
    assert is_built(spec, tmp_path / "repository")
    assert not is_built(replace(spec, precision=None), tmp_path / "repository")
    (checked,) = check(spec, tmp_path / "repository", silent)
    assert checked.proof["trial"] == entry.proof["trial"]  # measured at the export only


def test_auto_keeps_the_default_where_int8_is_not_exact_enough(inexact: ModelSpec, tmp_path: Path) -> None:
    (entry,) = build(replace(inexact, precision="auto"), tmp_path / "repository", silent)
    assert entry.proof["precision"] in {"bf16", "fp32"}
    assert entry.proof["rejected"]["int8"].startswith("verify tiny in int8, rows alone: embedding: cosine error ")
    assert "trial" not in entry.proof
    assert files(entry.folder) == COMMON | ONNX | RUNTIME


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    source = tiny.write_image_text(tmp_path_factory.mktemp("clip"), "CLIP")
    return ModelSpec(name="tiny", task="image-text", source=str(source), backend="onnxruntime")


def test_image_text_models_become_two_entries(clip: ModelSpec, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    former(repository, "tiny-text", "tiny-image", "other")
    text, image = build(clip, repository, silent)
    assert files(text.folder) == COMMON | ONNX
    assert files(image.folder) == ONNX | {"config.pbtxt", "export.json", "warmup/pixels"}
    assert image.proof["speed"][0]["unit"] == "images"
    assert is_built(clip, repository)
    assert [entry.folder.name for entry in check(clip, repository, silent)] == ["tiny-text", "tiny-image"]
    # What they replace is gone, and nothing else.
    assert {file.name for file in tmp_path.iterdir()} == {"repository", ".export-repository.lock"}
    assert (repository / "other" / "config.pbtxt").read_text() == "before"

    shutil.rmtree(image.folder)
    assert not is_built(clip, repository)
    with pytest.raises(ExportError, match=r"tiny-image is not built: run python -m export tiny$"):
        check(clip, repository, silent)


def test_what_a_killed_export_has_left_is_removed(tmp_path: Path) -> None:
    repository = tmp_path / "v1"
    repository.mkdir()
    others = {".export-v1-abcdefgh-12345678", ".export-v2-12345678"}
    for name in {".export-v1-abcd_123", *others}:
        (tmp_path / name / "tiny").mkdir(parents=True)
    with scratch_folder(repository) as own:
        assert {path.name for path in tmp_path.iterdir()} == {"v1", ".export-v1.lock", own.name, *others}
    assert not own.exists()


def test_second_export_to_a_repository_waits_for_the_first(tmp_path: Path) -> None:
    repository = tmp_path / "v1"
    repository.mkdir()
    with ThreadPoolExecutor() as threads:
        with scratch_folder(repository) as own:
            other = threads.submit(_entered, repository)
            time.sleep(0.2)
            assert not other.done()
            assert own.exists()
        assert other.result(10)


def _entered(repository: Path) -> bool:
    with scratch_folder(repository):
        return True


def test_failure_of_the_second_tower_leaves_the_first_as_it_was(tmp_path: Path) -> None:
    # The image folder's weights hold numbers that are none: its graph is traced, and verification finds them.
    words, pictures = tiny.write_embedding(tmp_path / "text"), tiny.write_image_classifier(tmp_path / "image")
    weights = load_file(pictures / "model.safetensors")
    save_file(
        {name: weight * float("nan") for name, weight in weights.items()},
        pictures / "model.safetensors",
        {"format": "pt"},
    )
    spec = ModelSpec(
        name="tiny",
        task="image-text",
        source=str(words),
        image_source=str(pictures),
        backend="onnxruntime",
        precision="fp32",
    )
    former(tmp_path / "repository", "tiny-text", "tiny-image")
    with pytest.raises(ParityError, match=r"^verify tiny-image in fp32, rows alone: embedding: cosine error nan"):
        build(spec, tmp_path / "repository", silent)
    assert files(tmp_path / "repository") == {"tiny-text/config.pbtxt", "tiny-image/config.pbtxt"}
    assert {path.name for path in tmp_path.glob(".export-*")} == {".export-repository.lock"}


def test_source_that_cannot_be_loaded_leaves_the_repository_as_it_was(bert: ModelSpec, tmp_path: Path) -> None:
    former(tmp_path / "repository", "tiny")
    with pytest.raises(SourceError, match=r"^\[tiny\] source: .* holds no config\.json$"):
        build(replace(bert, source=str(tmp_path)), tmp_path / "repository", silent)
    assert untouched(tmp_path / "repository")


def test_failed_rename_brings_all_old_entries_back(tmp_path: Path) -> None:
    repository, scratch = tmp_path / "repository", tmp_path / "scratch"
    for name in ("a", "b"):
        (repository / name).mkdir(parents=True)
        (repository / name / "old").touch()
    (scratch / "a").mkdir(parents=True)  # and no b
    with pytest.raises(FileNotFoundError):
        replace_entries(["a", "b"], scratch, repository)
    assert sorted(str(file.relative_to(repository)) for file in repository.rglob("old")) == ["a/old", "b/old"]
