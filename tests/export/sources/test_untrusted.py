"""Folders that would do more than be read. Each payload writes the file `ran` if anything of it runs."""

import importlib.metadata
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from tokenizers import Regex, Tokenizer, normalizers

from export.errors import SourceError
from export.manifest import ModelSpec
from export.sources.resolve import resolve
from loadtest.tools import tiny

SPEC = ModelSpec(name="tiny", task="text-embedding", source="/somewhere")
OWN = "sentence_transformers"
VERSION = importlib.metadata.version("transformers")
Attack = Callable[[Path], object]
"""What it does to a folder that is otherwise good."""


class Payload:
    """Writes the marker when it is read from a pickle."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_embedding(tmp_path_factory.mktemp("good"), dense=True)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_image_classifier(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy to do things to, with code and a pickle of its own in it."""
    copied = Path(shutil.copytree(good, tmp_path / "model"))
    arm(copied, tmp_path / "ran")
    return copied


def arm(folder: Path, marker: Path) -> None:
    """Put code and a pickle into a folder, which is all that the attacks below need."""
    code = (
        f"import os; os.system('touch {marker}')\nimport torch\n"
        "class Evil(torch.nn.Module):\n"
        "    def __init__(self, *_, **__):\n        super().__init__()\n"
        "    @classmethod\n    def load(cls, *_, **__):\n        return cls()\n"
        "    def forward(self, features, **_):\n        return features\n"
    )
    (folder / "evil.py").write_text(code)
    for name in ("evil.bin", "vocab.txt"):
        (folder / name).write_bytes(pickle.dumps(Payload(marker)))


def edit(file: Path, **values: Any) -> None:
    """Set keys of a JSON object, which is made where it is missing."""
    file.parent.mkdir(exist_ok=True)
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | values))


def add_module(folder: Path, kind: object, path: object = "9_Own", **config: Any) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([*modules, {"idx": 9, "name": "9", "path": path, "type": kind}]))
    if config:
        edit(folder / str(path) / "config.json", **config)


def router(folder: Path) -> None:
    add_module(folder, f"{OWN}.base.modules.router.Router", "3_Router")
    types = {"types": {"x": "evil.Evil"}, "structure": {"a": ["x"]}, "parameters": {}}
    edit(folder / "3_Router" / "router_config.json", **types)


def legacy_router(folder: Path) -> None:
    add_module(folder, f"{OWN}.models.Asym", "3_Asym", types={"x": "evil.Evil"}, structure={"a": ["x"]}, parameters={})


def word_embeddings(folder: Path) -> None:
    kind = f"{OWN}.sentence_transformer.modules.word_embeddings.WordEmbeddings"
    add_module(folder, kind, "9_Words")
    edit(folder / "9_Words" / "wordembedding_config.json", tokenizer_class="evil.Evil", max_seq_length=10)


def zeros(folder: Path) -> None:
    with zipfile.ZipFile(folder / "sparse_linear.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", bytes(65 << 20))


def index(folder: Path, name: str, **settings: Any) -> None:
    weights = folder / "model.safetensors"
    mapped = dict.fromkeys(load_file(weights), name)
    weights.rename(folder / "decoy.safetensors")
    edit(folder / "model.safetensors.index.json", metadata={}, weight_map=mapped)
    edit(folder / "sentence_bert_config.json", model_kwargs=settings)


def lightglue(folder: Path) -> None:
    detector = {"model_type": "evil", "_name_or_path": str(folder), "auto_map": {"AutoConfig": "evil.Evil"}}
    edit(folder / "config.json", model_type="lightglue", trust_remote_code=True, keypoint_detector_config=detector)


def pickled_module(folder: Path) -> None:
    (folder / "2_Dense" / "model.safetensors").unlink()
    shutil.copy(folder / "evil.bin", folder / "2_Dense" / "pytorch_model.bin")


def adapter(folder: Path, **values: Any) -> None:
    edit(folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path="x", **values)


def baseless_adapter(folder: Path) -> None:
    edit(folder / "0_T" / "adapter_config.json", base_model_name_or_path="/etc")
    (folder / "config.json").unlink()


def pickled_adapter(folder: Path) -> None:
    adapter(folder)
    shutil.copy(folder / "evil.bin", folder / "adapter_model.bin")


def fifo(folder: Path) -> None:
    (folder / "config_sentence_transformers.json").unlink()
    os.mkfifo(folder / "config_sentence_transformers.json")


def outside(folder: Path, name: str) -> Path:
    return Path(shutil.copytree(folder / name, folder.parent / f"out{name}"))


def linked_weights(folder: Path) -> None:
    weights = (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    (folder / "model.safetensors").symlink_to(weights)


def large(folder: Path, name: str, mebibytes: int) -> None:
    with (folder / name).open("ab") as file:
        file.truncate(mebibytes * 2**20)


def modules(folder: Path, content: object) -> None:
    (folder / "modules.json").write_text(json.dumps(content))


def sentence(setting: dict[str, Any]) -> Attack:
    return lambda folder: edit(folder / "sentence_bert_config.json", **setting)


def config(**values: Any) -> Attack:
    return lambda folder: edit(folder / "config.json", **values)


CODE = r"refers to its own code \(auto_map\), which runs only with allow_remote_code = true"
OWN_MAP = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}
NAMED = "which is read only with allow_remote_code = true"

RUNS_CODE: dict[str, tuple[Attack, str]] = {
    # the four of which each ran
    "router": (
        router,
        r"3_Router/router_config\.json refers to its own code, evil\.Evil, which runs only with allow_re",
    ),
    "words": (word_embeddings, rf"9_Words/wordembedding_config\.json tokenizer_class: names 'evil\.Evil', {NAMED}"),
    "pickle": (
        lambda f: index(f, "evil.bin", weights_only=False),
        "model_kwargs: 'weights_only' is read only with allow_remote_code = tr",
    ),
    "vocab": (
        lambda f: index(f, "vocab.txt", weights_only=False),
        "model_kwargs: 'weights_only' is read only with allow_remote_code = tr",
    ),
    "lightglue": (lightglue, "model_type: lightglue is not supported, since it reads files outside of the folder"),
    "trust": (config(trust_remote_code=True), r"config\.json refers to its own code \(trust_remote_code\)"),
    # and their relatives
    "asym": (legacy_router, r"3_Asym/config\.json refers to its own code, evil\.Evil"),
    "module": (
        lambda f: add_module(f, "evil.Evil"),
        r"its modules\.json refers to its own code, evil\.Evil, which runs",
    ),
    "config": (config(auto_map=OWN_MAP), rf"config\.json {CODE}"),
    "nested": (config(text_config={"deep": [{"auto_map": OWN_MAP}]}), rf"config\.json {CODE}"),
    "tokenizer": (lambda f: edit(f / "tokenizer_config.json", auto_map=OWN_MAP), rf"tokenizer_config\.json {CODE}"),
    "processor": (
        lambda f: edit(f / "preprocessor_config.json", auto_map={"AutoImageProcessor": "evil.Evil"}),
        rf"preprocessor_config\.json {CODE}",
    ),
    "subfolder": (lambda f: edit(f / "0_Transformer" / "config.json", auto_map=OWN_MAP), rf"config\.json {CODE}"),
    "activation": (
        lambda f: edit(f / "config_sentence_transformers.json", activation_fn="evil.Evil"),
        rf"config_sentence_transformers\.json activation_fn: names 'evil\.Evil', {NAMED}",
    ),
    "dense": (
        lambda f: edit(f / "2_Dense" / "config.json", activation_function="torch.hub.load"),
        rf"2_Dense/config\.json activation_function: names 'torch\.hub\.load', {NAMED}",
    ),
    "kernel": (config(_attn_implementation="evil/kernel"), rf"_attn_implementation: names 'evil/kernel', {NAMED}"),
    "arguments": (
        sentence({"tokenizer_args": {"config": "evil"}}),
        "tokenizer_args: 'config' is read only with allow_remote_code = true; known settings: ",
    ),
    "library": (
        lambda f: adapter(f, auto_mapping={"base_model_class": "Evil", "parent_library": "evil"}),
        rf"adapter_config\.json parent_library: names 'evil', {NAMED}",
    ),
    "megatron": (lambda f: adapter(f, megatron_core="evil", megatron_config={"a": 1}), "megatron_co.*"),
    "timm": (config(vision_config={"model_type": "timm_wrapper"}), "model_type: timm_wrapper is not supported"),
    "audio": (
        lambda f: edit(f / "processor_config.json", audio_tokenizer={"audio_tokenizer_name_or_path": "x"}),
        "audio_tokenizer: is not supported, since it reads files outside of the folder",
    ),
    "quantized": (config(quantization_config={"quant_method": "x"}), "quantization_config: is not supported"),
}
"""What a folder may only do where its table allows code, and the message."""

REFUSED: dict[str, tuple[Attack, str]] = {
    "index alone": (
        lambda f: index(f, "evil.bin"),
        r"model\.safetensors\.index\.json weight_map: names 'evil\.bin', but only \*\.safetensors beside it are read",
    ),
    "index outside": (
        lambda f: index(f, "../a.safetensors"),
        r"weight_map: names '\.\./a\.safetensors', but only",
    ),
    "index of nothing": (
        lambda f: index(f, "a.safetensors"),
        r"weight_map: names 'a\.safetensors', which is missing",
    ),
    "index of a list": (lambda f: edit(f / "a.safetensors.index.json", weight_map=[]), "weight_map: is not an object"),
    "module in a pickle": (pickled_module, r"2_Dense/pytorch_model\.bin is a pickle, .* set allow_pickle = true "),
    "adapter in a pickle": (
        pickled_adapter,
        r"adapter_model\.bin is a pickle, which can run code when it is loaded",
    ),
    "adapter of another model": (
        baseless_adapter,
        "0_T/adapter_config.json names a base model, '/etc', that is not in the folder",
    ),
    "module outside": (
        lambda f: add_module(f, f"{OWN}.models.Pooling", f"../{outside(f, '1_Pooling').name}"),
        r"modules\.json path: '\.\./out1_Pooling' is not a path inside the folder",
    ),
    "module at a root": (lambda f: add_module(f, f"{OWN}.models.Pooling", "/etc"), "path: '/etc' is not a path inside"),
    "module in a hidden folder": (
        lambda f: add_module(f, f"{OWN}.models.Router", ".hidden"),
        r"modules\.json path: '\.hidden' is not a path inside",
    ),
    "folder behind a link": (lambda f: (f / "9_Dense").symlink_to(f / "1_Pooling"), "9_Dense is a link to a folder$"),
    "links in a circle": (lambda f: (f / "a").symlink_to(f / "a"), "cannot be read: "),
    "vocabulary of another folder": (
        lambda f: edit(f / "special_tokens_map.json", tokenizer_file="/etc/passwd"),
        "special_tokens_map.json tokenizer_file: is not supported",
    ),
    "vocabulary by an argument": (
        lambda f: edit(f / "tokenizer_config.json", vocab="/etc/passwd"),
        "tokenizer_config.json vocab: is not supported",
    ),
    "keys by other names": (
        lambda f: edit(f / "config.json", attribute_map={"a": "quantization_config"}),
        "config.json attribute_map: is not supported",
    ),
    "module whose type is not a name": (
        lambda f: modules(f, [{"path": "", "type": 5}]),
        r"modules\.json type: 5 is not a name$",
    ),
    "module of no path": (
        lambda f: add_module(f, f"{OWN}.models.Pooling", 5),
        r"modules\.json path: 5 is not a path inside",
    ),
    "modules in an object": (lambda f: modules(f, {"0": {}}), r"modules\.json is not a list of objects"),
    "modules in a list of numbers": (lambda f: modules(f, [5]), r"modules\.json is not a list of objects"),
    "types in a list": (lambda f: edit(f / "r_config.json", types=[1]), r"r_config\.json types: is not an object"),
    "a module that is not read": (
        lambda f: add_module(f, f"{OWN}.models.WordEmbeddings"),
        "modules.json type: WordEmbeddings is not one of .*Dense, ",
    ),
    "a class that is no module": (
        lambda f: add_module(f, f"{OWN}.models.os"),
        "modules.json type: os is not one of ",
    ),
    "config in a list": (lambda f: (f / "config.json").write_text("[]"), r"config\.json is not an object"),
    "JSON cut short": (lambda f: (f / "config.json").write_text('{"a'), r"config\.json is not JSON: "),
    "deep JSON": (lambda f: (f / "a.json").write_text("[" * 100_000), r"a\.json is not JSON: "),
    "arguments in a list": (sentence({"model_kwargs": [1]}), "model_kwargs: is not an object"),
    "an unknown type": (
        config(model_type="no-such", transformers_version="9.1"),
        rf"model_type: 'no-such' is unknown to transformers {VERSION}; the folder was saved by transformers '9\.1'$",
    ),
    "type that is not a name": (config(model_type=["bert"]), r"model_type: \['bert'\] is unknown to"),
    "a million layers": (
        config(num_hidden_layers=10**6),
        "num_hidden_layers: 1,000,000 is more than the allowed 1,000",
    ),
    "a million layers below": (
        config(text_config={"n_layer": 1e6}),
        r"n_layer: 1,000,000\.0 is more than the allowed 1,000",
    ),
    "deep stages": (config(depths=[1, 10**9]), "depths: 1,000,000,000 is more than the allowed 1,000"),
    "prompts": (
        lambda f: edit(f / "config_sentence_transformers.json", prompts={"a": "x" * 10_000, "b": "x" * 10_000}),
        "prompts: have 20,000 characters, more than the allowed 16,384",
    ),
    "layers that call": (
        lambda f: torch.save(Payload(f.parent / "ran"), f / "sparse_linear.pt"),
        "sparse_linear.pt holds more than tensors: its pickle calls 'posix system'$",
    ),
    "layers of a whole module": (
        lambda f: torch.save(torch.nn.Linear(2, 1), f / "colbert_linear.pt"),
        "colbert_linear.pt holds more than tensors: its pickle calls '__builtin__ set'$",
    ),
    "layers without an archive": (
        lambda f: shutil.copy(f / "evil.bin", f / "sparse_linear.pt"),
        "sparse_linear.pt is no file of torch: File is not a zip file$",
    ),
    "layers of many zeros": (zeros, r"sparse_linear\.pt holds 65\.0 MiB, more than the allowed 64$"),
    "a FIFO": (fifo, r"config_sentence_transformers\.json is not a regular file"),
    "a device": (lambda f: (f / "a.json").symlink_to("/dev/zero"), "a.json is a link that leads out of the folder"),
    "a link": (linked_weights, r"model\.safetensors is a link that leads out of the folder"),
    "a broken link": (lambda f: (f / "a").symlink_to("nothing"), "cannot be read: .*No such file"),
    "a large config": (lambda f: large(f, "config.json", 9), r"config\.json has 9\.0 MiB, more than the allowed 8"),
    "a large tokenizer": (
        lambda f: large(f, "tokenizer.json", 65),
        "tokenizer.json has 65.0 MiB, more than the allowed 64",
    ),
}
"""What a folder may not do in any case, or not without allow_pickle, and the message."""


def check_refused(folder: Path, attack: Attack, message: str) -> None:
    attack(folder)
    with pytest.raises(SourceError, match=rf"^\[tiny\] source: .*{message}"):
        resolve(replace(SPEC, source=str(folder)))
    assert not (folder.parent / "ran").exists()


@pytest.mark.parametrize("name", RUNS_CODE)
def test_what_could_run_code_is_refused_unless_the_table_allows_code(name: str, folder: Path) -> None:
    check_refused(folder, *RUNS_CODE[name])


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_data_is_refused(name: str, folder: Path) -> None:
    check_refused(folder, *REFUSED[name])


@pytest.mark.parametrize("name", ["router", "module", "config", "nested", "activation", "arguments", "quantized"])
def test_code_is_allowed_by_its_key(name: str, folder: Path) -> None:
    RUNS_CODE[name][0](folder)
    assert resolve(replace(SPEC, source=str(folder), allow_remote_code=True)).folder == folder


@pytest.mark.parametrize("name", ["module in a pickle", "adapter in a pickle"])
def test_pickles_are_allowed_by_their_key(name: str, folder: Path) -> None:
    REFUSED[name][0](folder)
    assert resolve(replace(SPEC, source=str(folder), allow_pickle=True)).folder == folder


def test_payloads_are_live(folder: Path) -> None:
    """Without this the tests above could pass on payloads that do nothing."""
    pickle.loads((folder / "evil.bin").read_bytes())  # noqa: S301 - our own
    assert (folder.parent / "ran").exists()
    (folder.parent / "ran").unlink()
    add_module(folder, "evil.Evil", "")
    SentenceTransformer(str(folder), device="cpu", local_files_only=True, trust_remote_code=True)
    assert (folder.parent / "ran").exists()


@pytest.mark.parametrize(
    "change",
    [
        config(auto_map=None),
        config(_name_or_path="owner/model", text_config={"_name_or_path": "/home/author/model"}),
        lambda f: edit(f / "tokenizer_config.json", trust_remote_code=False),
        lambda f: edit(f / "2_Dense" / "config.json", activation_function="torch.nn.modules.linear.Identity"),
        lambda f: edit(f / "config_sentence_transformers.json", activation_fn="torch.nn.modules.activation.Sigmoid"),
        lambda f: add_module(f, f"{OWN}.models.Dense"),
        lambda f: add_module(f, f"{OWN}.models.Router.Router"),
        lambda f: add_module(f, f"{OWN}.sparse_encoder.models.SpladePooling"),
        lambda f: add_module(f, f"{OWN}.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask"),
        lambda f: add_module(f, "pylate.models.Dense.Dense"),
        sentence({"model_args": {"torch_dtype": "float16", "trust_remote_code": False}}),
        lambda f: (f / "other.safetensors").symlink_to("model.safetensors"),
        lambda f: (f / "data_config.json").write_text("[]"),
        lambda f: (f / ".git").mkdir(),
        lambda f: adapter(f, megatron_core="megatron.core", megatron_config=None),
        lambda f: (f / "vocab.json").write_text('{"auto_map": 1}'),  # a word
    ],
)
def test_what_folders_hold_is_read(change: Attack, folder: Path) -> None:
    change(folder)
    assert resolve(replace(SPEC, source=str(folder))).folder == folder


def test_snapshot_of_the_hubs_cache_is_links_to_its_blobs(good: Path, tmp_path: Path) -> None:
    cached = tmp_path / "models--owner--model"
    snapshot = Path(shutil.copytree(good, cached / "snapshots" / "0123"))
    (cached / "blobs").mkdir()
    (snapshot / "model.safetensors").rename(cached / "blobs" / "abcd")
    (snapshot / "model.safetensors").symlink_to("../../blobs/abcd")
    assert resolve(replace(SPEC, source=str(snapshot))).folder == snapshot
    (tmp_path / "models--other--model" / "blobs").mkdir(parents=True)
    shutil.copy(good / "config.json", tmp_path / "models--other--model" / "blobs" / "abcd")
    (snapshot / "other.json").symlink_to("../../../models--other--model/blobs/abcd")
    with pytest.raises(SourceError, match=r"other\.json is a link that leads out of the folder$"):
        resolve(replace(SPEC, source=str(snapshot)))


def test_folder_of_images_is_looked_through_too(good: Path, pictures: Path, tmp_path: Path) -> None:
    images = Path(shutil.copytree(pictures, tmp_path / "images"))
    arm(images, tmp_path / "ran")
    edit(images / "preprocessor_config.json", auto_map={"AutoImageProcessor": "evil.Evil"})
    spec = ModelSpec(name="tiny", task="image-text", source=str(good), image_source=str(images))
    with pytest.raises(SourceError, match=rf"^\[tiny\] image_source: preprocessor_config\.json {CODE}"):
        resolve(spec)


def panics(folder: Path) -> None:
    """tokenizers ends a thread in a way that is no exception of Python's."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    many = [normalizers.Prepend("a" * 60), normalizers.Prepend("! ")]
    tokenizer.normalizer = normalizers.Sequence([*many, normalizers.Replace(Regex("(a+)+$|(.*)*x"), "")])
    tokenizer.save(str(folder / "tokenizer.json"))


def grows(folder: Path) -> None:
    """Each character becomes ten, eight times."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(Regex("."), "a" * 10)] * 9)
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.timeout(400)  # nearly a minute on a core of its own
def test_good_model_of_the_same_call_is_built_and_nothing_runs(good: Path, pictures: Path, tmp_path: Path) -> None:
    attacks = {name: attack for name, (attack, _) in (RUNS_CODE | REFUSED).items()}
    attacks |= {"panics": panics, "grows": grows}
    tables: dict[str, dict[str, str]] = {"good": {"task": "text-embedding", "source": str(good), "precision": "fp32"}}
    for number, (name, attack) in enumerate(attacks.items()):
        copied = Path(shutil.copytree(good, tmp_path / str(number) / "model"))
        arm(copied, tmp_path / "ran")
        attack(copied)
        tables[name.replace(" ", "-")] = {"task": "text-embedding", "source": str(copied)}
        if name == "activation":
            tables[name]["task"] = "cross-encoder"
    images = Path(shutil.copytree(pictures, tmp_path / "images"))
    arm(images, tmp_path / "ran")
    edit(images / "config.json", auto_map={"AutoModelForImageClassification": "evil.Evil"})
    tables["images"] = {"task": "image-text", "source": str(good), "image_source": str(images)}
    manifest = tmp_path / "models.toml"
    keys = {name: [f"{key} = {json.dumps(value)}" for key, value in table.items()] for name, table in tables.items()}
    manifest.write_text("\n".join(line for name in tables for line in (f"[{name}]", *keys[name])))
    options = ("--manifest", manifest, "--repository", tmp_path / "repository", "--memory-limit", "3")
    done = subprocess.run(
        [sys.executable, "-m", "export", *map(str, options)],
        env=os.environ | {"PYTHONPATH": str(images)},  # where `import evil` finds it
        capture_output=True,
        text=True,
        check=False,
    )
    assert not (tmp_path / "ran").exists()
    assert done.returncode == 3  # some failed
    *lines, rest = done.stderr.splitlines()
    assert rest == "export: without what failed, the repository holds: good"
    assert [line.split()[1] for line in lines] == [f"[{name}]" for name in tables if name != "good"], done.stderr
    assert all(line.startswith("export: [") for line in lines)
    assert [folder.name for folder in (tmp_path / "repository").iterdir()] == ["good"]
    assert [path.name for path in tmp_path.glob(".export-*")] == [".export-repository.lock"]
    by_name = {line.split()[1].strip("[]"): line for line in lines}
    assert "PanicException" in by_name["panics"]
    assert "exceeded the --memory-limit of 3 GiB" in by_name["grows"]
