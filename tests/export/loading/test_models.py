import json
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from export.errors import SourceError
from export.loading.models import architecture, load_model, load_tokenizer, loading
from export.manifest import ModelSpec
from export.tasks.vocabulary import vocabulary
from loadtest.tools import tiny

SPEC = ModelSpec(name="tiny", task="text-embedding", source="/somewhere")
TRUSTING = replace(SPEC, allow_remote_code=True)


def test_model_is_ready_to_be_traced(tmp_path: Path) -> None:
    source = tiny.write_plain(tmp_path)
    AutoModel.from_pretrained(source).to(torch.bfloat16).save_pretrained(source)
    model = load_model(SPEC, AutoModel, source)
    assert not model.training
    assert {(weight.dtype, weight.requires_grad) for weight in model.parameters()} == {(torch.float32, False)}


def test_weights_are_those_of_the_folder(tmp_path: Path) -> None:
    source = tiny.write_plain(tmp_path)
    saved = load_file(source / "model.safetensors")
    loaded = load_model(SPEC, AutoModel, source).state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in saved.items())


def test_missing_weights_are_named(tmp_path: Path) -> None:
    source = tiny.write_plain(tmp_path)
    weights = {
        name: weight for name, weight in load_file(source / "model.safetensors").items() if "layer.1." not in name
    }
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        SourceError,
        match=r"^\[tiny\] source: weights are missing: encoder\.layer\.1\.attention\.output\.LayerNorm\.bias, ",
    ):
        load_model(SPEC, AutoModel, source)


def with_code(folder: Path) -> Path:
    """A model whose architecture comes beside its weights: BERT under another name."""
    source = tiny.write_plain(folder)
    config = json.loads((source / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}}
    (source / "config.json").write_text(json.dumps(config))
    (source / "own.py").write_text(
        "from transformers import BertConfig, BertModel\n"
        'class OwnConfig(BertConfig):\n    model_type = "own"\n'
        "class OwnModel(BertModel):\n    config_class = OwnConfig\n"
    )
    return source


def test_code_that_comes_with_weights_is_not_run(tmp_path: Path) -> None:
    source = with_code(tmp_path)
    ran = tmp_path / "ran"
    code = (source / "own.py").read_text()
    (source / "own.py").write_text(f"open({str(ran)!r}, 'w').close()\n{code}")
    with pytest.raises(
        SourceError,
        match=r"^\[tiny\] source: it needs its own code, which runs only with allow_remote_code = true$",
    ):
        load_model(SPEC, AutoModel, source)
    assert not ran.exists()


def test_code_that_comes_with_weights_runs_where_the_table_allows_it(tmp_path: Path) -> None:
    assert type(load_model(TRUSTING, AutoModel, with_code(tmp_path))).__name__ == "OwnModel"


def test_pickled_weights_are_read_where_the_table_allows_it_only(tmp_path: Path) -> None:
    source = tiny.write_plain(tmp_path)
    torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    with pytest.raises(SourceError, match=r"^\[tiny\] source: cannot be loaded: .*model\.safetensors"):
        load_model(SPEC, AutoModel, source)
    assert load_model(replace(SPEC, allow_pickle=True), AutoModel, source).config.model_type == "bert"


def test_configuration_that_is_not_known_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-architecture"}')
    with pytest.raises(SourceError, match=r"^\[tiny\] source: cannot be loaded: .*no-such-architecture"):
        load_model(SPEC, AutoModel, tmp_path)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_errors_that_are_no_fault_of_the_source_pass(error: type[BaseException]) -> None:
    with pytest.raises(error), loading(SPEC):
        raise error


def test_tokenizer_is_the_folders(tmp_path: Path) -> None:
    source = tiny.write_plain(tmp_path, "RoBERTa")
    assert load_tokenizer(SPEC, source).get_vocab() == tiny.byte_pairs().get_vocab()


def test_architecture_is_the_class_that_was_saved(tmp_path: Path) -> None:
    assert architecture(AutoConfig.from_pretrained(tiny.write_cross_encoder(tmp_path))) == (
        "BertForSequenceClassification"
    )
    assert architecture(tiny.config("BERT")) == ""  # which never was


@pytest.mark.parametrize("damage", ["pointer", "size"])
def test_weights_that_do_not_fit_are_one_sentence(damage: str, tmp_path: Path) -> None:
    source = tiny.write_plain(tmp_path)
    if damage == "pointer":  # what git leaves where its large file storage is not installed
        (source / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    else:
        config = json.loads((source / "config.json").read_text()) | {"hidden_size": 64}
        (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(SourceError, match=r"^\[tiny\] source: cannot be loaded: "):
        load_model(SPEC, AutoModel, source)


def test_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    source = tiny.write_plain(tmp_path)
    model = load_model(SPEC, AutoModel, source)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (source / file).unlink()
    with pytest.raises(SourceError, match=r"^\[tiny\] source: holds no vocabulary"):
        vocabulary(SPEC, load_tokenizer(SPEC, source), model, None)
