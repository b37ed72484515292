import json
import os
from pathlib import Path

import pytest
from msgspec.structs import replace
from transformers import Qwen2Config, RobertaConfig

from export.entry import PROOF, build, fingerprint, is_built
from export.errors import ParityError, SourceError
from export.manifest import ModelSpec
from tests.export.tiny import SIZES, write_tiny


def spec(source: Path, task: str = "text-embedding") -> ModelSpec:
    return replace(ModelSpec(name="tiny", task="text-embedding", source=str(source)), task=task)


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_pooling_is_exported_as_sentence_transformers_has_it(pooling: str, tmp_path: Path, minilm_folder: Path) -> None:
    source = write_tiny(tmp_path / "source", minilm_folder, pooling)
    entry = build(spec(source), tmp_path / "repository", progress=print)
    cosines = [parity["value"] for parity in entry.proof["parity"] if parity["precision"] == "f32"]
    assert len(cosines) == 3
    assert min(cosines) > 0.999999


def test_late_interaction_is_exported_from_any_tower(tmp_path: Path, minilm_folder: Path) -> None:
    source = write_tiny(tmp_path / "source", minilm_folder)
    entry = build(spec(source, "late-interaction"), tmp_path / "repository", progress=print)
    errors = [parity["value"] for parity in entry.proof["parity"] if parity["precision"] == "f32"]
    assert max(errors) < 1e-5


def test_entry_is_whole_and_its_proof_tells_where_it_comes_from(tmp_path: Path, minilm_folder: Path) -> None:
    tiny = spec(write_tiny(tmp_path / "source", minilm_folder))
    stages: list[str] = []
    assert not is_built(tiny, tmp_path / "repository")
    entry = build(tiny, tmp_path / "repository", stages.append)
    assert stages == ["load", "trace", "verify", "write"]
    files = {str(file.relative_to(entry.folder)) for file in entry.folder.rglob("*") if file.is_file()}
    assert files == {
        "1/engine.py",
        "1/model.onnx",
        "1/model.py",
        "config.pbtxt",
        "export.json",
        "tokenizer.json",
        "warmup/input_ids",
        "warmup/length",
    }
    assert json.loads((entry.folder / PROOF).read_text())["source"] == str(tmp_path / "source" / "model")
    assert is_built(tiny, tmp_path / "repository")


def test_entry_of_a_changed_table_is_out_of_date(tmp_path: Path, minilm_folder: Path) -> None:
    tiny = spec(write_tiny(tmp_path / "source", minilm_folder))
    build(tiny, tmp_path / "repository", progress=print)
    changed = replace(tiny, aliases=("other",))
    assert fingerprint(changed) != fingerprint(tiny)
    assert not is_built(changed, tmp_path / "repository")


def test_entry_of_changed_or_missing_files_is_out_of_date(tmp_path: Path, minilm_folder: Path) -> None:
    tiny = spec(write_tiny(tmp_path / "source", minilm_folder))
    entry = build(tiny, tmp_path / "repository", progress=print)
    weights = tmp_path / "source" / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    os.utime(weights, ns=(before, before + 1))
    assert not is_built(tiny, tmp_path / "repository")
    os.utime(weights, ns=(before, before))
    assert is_built(tiny, tmp_path / "repository")
    (entry.folder / "1" / "model.onnx").unlink()
    assert not is_built(tiny, tmp_path / "repository")


def test_model_whose_numbers_differ_leaves_the_repository_as_it_was(tmp_path: Path, minilm_folder: Path) -> None:
    # RoBERTa counts positions from its padding id on, which packing does not know: the parity gate must notice.
    config = RobertaConfig(**SIZES | {"pad_token_id": 1})
    tiny = spec(write_tiny(tmp_path / "source", minilm_folder, config=config))
    repository = tmp_path / "repository"
    (repository / "tiny").mkdir(parents=True)
    (repository / "tiny" / "config.pbtxt").write_text("before")
    with pytest.raises(ParityError, match=r"measured 0\.\d+, where cosine >= 0\.9999 was due"):
        build(tiny, repository, progress=print)
    assert [str(file.relative_to(tmp_path)) for file in repository.rglob("*")] == [
        "repository/tiny",
        "repository/tiny/config.pbtxt",
    ]
    assert not list(tmp_path.glob(".export-*"))


def test_unsupported_pooling_is_named(tmp_path: Path, minilm_folder: Path) -> None:
    source = write_tiny(tmp_path / "source", minilm_folder, "max")
    with pytest.raises(SourceError, match="pooling 'max' is not one of mean, cls, lasttoken"):
        build(spec(source), tmp_path / "repository", progress=print)


def test_modules_after_the_pooling_are_refused(tmp_path: Path, minilm_folder: Path) -> None:
    source = write_tiny(tmp_path / "source", minilm_folder, dense=True)
    with pytest.raises(SourceError, match="modules after the pooling"):
        build(spec(source), tmp_path / "repository", progress=print)


def test_more_tokens_than_positions_are_refused(tmp_path: Path, minilm_folder: Path) -> None:
    source = write_tiny(tmp_path / "source", minilm_folder)
    with pytest.raises(SourceError, match="max_tokens: 129, but the model has 128 positions"):
        build(replace(spec(source), max_tokens=129), tmp_path / "repository", progress=print)


def test_sizes_that_the_model_does_not_have_are_refused(tmp_path: Path, minilm_folder: Path) -> None:
    source = write_tiny(tmp_path / "source", minilm_folder)
    with pytest.raises(SourceError, match=r"dimensions: \[8, 32\], but the model has 32"):
        build(replace(spec(source), dimensions=(8, 32)), tmp_path / "repository", progress=print)


def test_default_prompt_is_refused_as_long_as_the_gateway_knows_none(tmp_path: Path, minilm_folder: Path) -> None:
    source = write_tiny(tmp_path / "source", minilm_folder)
    settings = source / "config_sentence_transformers.json"
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | prompts))
    with pytest.raises(SourceError, match=r"a default prompt .'query'. is not supported yet"):
        build(spec(source), tmp_path / "repository", progress=print)


def test_folder_that_cannot_be_loaded_is_one_sentence(tmp_path: Path, minilm_folder: Path) -> None:
    source = write_tiny(tmp_path / "source", minilm_folder)
    (source / "config.json").write_text('{"model_type": "no-such-architecture"}')
    with pytest.raises(SourceError, match=r"\[tiny\] source: cannot be loaded: "):
        build(spec(source), tmp_path / "repository", progress=print)


def test_causal_models_are_refused(tmp_path: Path, minilm_folder: Path) -> None:
    config = Qwen2Config(**SIZES, num_key_value_heads=4)
    source = write_tiny(tmp_path / "source", minilm_folder, "lasttoken", config)
    with pytest.raises(SourceError, match=r"\[tiny\] source: this architecture cannot be traced as a packed graph"):
        build(spec(source), tmp_path / "repository", progress=print)
