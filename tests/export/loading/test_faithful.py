import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from transformers import AutoConfig, AutoImageProcessor, AutoModel, PreTrainedModel

from export.errors import SourceError
from export.loading.faithful import changed_module, changed_settings, dropped, unread_weights
from export.loading.models import load_model, load_processor
from export.manifest import ModelSpec
from export.tasks import text_embedding
from loadtest.tools import tiny
from tests.export.published import PUBLISHED

SPEC = ModelSpec(name="tiny", task="text-embedding", source="/somewhere", pooling="mean")
HERE = transformers.__version__
LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
LLAMA3 = {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 64}


def edited(folder: Path, name: str, changes: Mapping[str, Any], *without: str) -> Path:
    """A folder of a family whose config.json says more, or less."""
    tiny.write_plain(folder, name)
    file = folder / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in config.items() if key not in without}))
    return folder


def vectors(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.randint(3, 200, (1, 60), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        hidden: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return hidden


# What transformers 4 wrote, and what transformers 5 writes, of the same model.
TWICE: Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {
    "theta": (
        "Qwen3",
        {"rope_theta": 50.0, "rope_scaling": None},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
    ),
    "linear, as it was written first": (
        "Qwen2",
        {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "both names of a type": (
        "Qwen2",
        {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 4.0}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "yarn": (
        "Qwen3",
        {
            "rope_theta": 50.0,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        },
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 50.0,
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    "llama3": (
        "Llama",
        {"rope_theta": 500.0, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0, **LLAMA3}},
    ),
    "two kinds of layers": (
        "Gemma 3",
        {
            "layer_types": LAYERS,
            "rope_theta": 50.0,
            "rope_local_base_freq": 20.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        {
            "layer_types": LAYERS,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 50.0, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
            },
        },
    ),
    "a pattern of layers": (
        "ModernBERT",
        {"global_attn_every_n_layers": 2, "global_rope_theta": 50.0, "local_rope_theta": 20.0},
        {
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 50.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
            },
        },
    ),
}


@pytest.mark.parametrize("case", TWICE)
def test_both_generations_say_the_same_and_it_is_computed(case: str, tmp_path: Path) -> None:
    name, four, five = TWICE[case]
    own = ("rope_parameters", "layer_types", "global_attn_every_n_layers")
    older = edited(tmp_path / "4", name, four, *(key for key in own if key not in four))
    newer = edited(tmp_path / "5", name, five, "global_attn_every_n_layers")
    found = [vectors(load_model(SPEC, AutoModel, folder)) for folder in (older, newer)]
    plain = vectors(load_model(SPEC, AutoModel, tiny.write_plain(tmp_path / "plain", name)))
    torch.testing.assert_close(*found)
    assert (found[0] - plain).abs().max() > 1e-2


def test_frequencies_are_those_of_the_theta_that_is_said(tmp_path: Path) -> None:
    changes = {"rope_parameters": {"rope_type": "linear", "rope_theta": 50.0, "factor": 4.0}}
    model = load_model(SPEC, AutoModel, edited(tmp_path, "Qwen3", changes))
    expected = (
        50.0 ** -(torch.arange(0, 8, 2) / 8) / 4
    )  # Su et al. 2021, arXiv 2104.09864; Chen et al. 2023, 2306.15595
    torch.testing.assert_close(model.rotary_emb.inv_freq, expected)


DROPPED: Mapping[str, tuple[str, Mapping[str, Any], str]] = {
    "relative positions": (
        "BERT",
        {"position_embedding_type": "relative_key"},
        'position_embedding_type = "relative_key"',
    ),
    "an epsilon that is fixed": ("DistilBERT", {"layer_norm_eps": 1e-5}, "layer_norm_eps = 1e-05"),
    "a cap that the family lacks": ("Qwen3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0"),
    "a switch that is off": ("Qwen3", {"use_qk_norm": False}, "use_qk_norm = false"),
    "a theta against another": (
        "Qwen3",
        {"rope_theta": 10000.0, "rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
        "rope_theta = 10000.0",
    ),
    "one theta for two kinds of layers": (
        "Gemma 3",
        {"layer_types": LAYERS, "rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
        "rope_parameters.rope_theta = 50.0",
    ),
    "two kinds of layers where there is one": (
        "Llama",
        {"rope_parameters": {"full_attention": {"rope_theta": 50.0}}},
        "rope_parameters.full_attention.rope_theta = 50.0",
    ),
    "a factor without its type": ("Qwen3", {"rope_scaling": {"factor": 4.0}}, "rope_scaling.factor = 4.0"),
    "a pattern against the layers": (
        "ModernBERT",
        {"global_attn_every_n_layers": 3, "layer_types": ["full_attention"] * 3},
        "global_attn_every_n_layers = 3",
    ),
    "quantized weights": ("BERT", {"quantization_config": {"bits": 4}}, "quantization_config.bits = 4"),
}


@pytest.mark.parametrize("case", DROPPED)
def test_what_is_said_and_not_computed_is_refused(case: str, tmp_path: Path) -> None:
    name, changes, message = DROPPED[case]
    folder = edited(tmp_path, name, changes)
    assert message in dropped(folder, AutoModel.from_config(AutoConfig.from_pretrained(folder)))


def test_model_whose_config_is_another_is_told(tmp_path: Path) -> None:
    folder = tiny.write_plain(tmp_path)
    model = AutoModel.from_pretrained(folder)
    model.config.layer_norm_eps = 1e-6
    assert dropped(folder, model) == ["layer_norm_eps = 1e-12"]


def test_refusal_names_the_setting_and_the_version_that_reads_it(tmp_path: Path) -> None:
    folder = edited(tmp_path, "Qwen3", {"value_scale": 2.0, "transformers_version": "4.57.6"})
    with pytest.raises(
        SourceError,
        match=rf"^\[tiny\] source: has settings that transformers {HERE} does not read: value_scale = 2\.0$",
    ):
        text_embedding.pipeline(SPEC, folder)


def test_refusal_of_a_newer_folder_names_both_versions(tmp_path: Path) -> None:
    folder = edited(tmp_path, "Qwen3", {"value_scale": 2.0, "transformers_version": "5.30.0"})
    with pytest.raises(
        SourceError,
        match=rf"value_scale = 2\.0; it was saved by transformers 5\.30\.0, newer than the {HERE} that reads it here$",
    ):
        load_model(SPEC, AutoModel, folder)


def test_newer_folder_of_which_nothing_is_dropped_is_taken(tmp_path: Path) -> None:
    folder = edited(tmp_path, "Qwen3", {"transformers_version": "5.30.0", "later": None})
    assert load_model(SPEC, AutoModel, folder).config.model_type == "qwen3"


def test_newer_folder_that_cannot_be_loaded_names_both_versions(tmp_path: Path) -> None:
    folder = edited(tmp_path, "BERT", {"transformers_version": "5.30.0", "model_type": "later"})
    with pytest.raises(SourceError, match=r"cannot be loaded: .*; it was saved by transformers 5\.30\.0, newer than"):
        load_model(SPEC, AutoModel, folder)


@pytest.mark.parametrize("name", [*tiny.ENCODERS, *tiny.DECODERS])
def test_folders_of_every_family_are_taken(name: str, tmp_path: Path) -> None:
    kind = transformers.T5EncoderModel if name == "T5" else AutoModel
    load_model(SPEC, kind, tiny.write_plain(tmp_path, name))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_computed_as_they_are(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[name]))
    with torch.device("meta"):  # of its true size, and without memory for it
        model = AutoModel.from_config(AutoConfig.from_pretrained(tmp_path))
    assert dropped(tmp_path, model) == []


def test_published_config_is_refused_once_a_value_is_none_that_its_code_computes(tmp_path: Path) -> None:
    changes = {**PUBLISHED["nomic-ai/nomic-embed-text-v1.5"], "n_layer": 6, "rotary_emb_base": 10000, "prenorm": True}
    (tmp_path / "config.json").write_text(json.dumps(changes))
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.from_pretrained(tmp_path))
    assert dropped(tmp_path, model) == ["n_layer = 6", "prenorm = true", "rotary_emb_base = 10000"]


def test_nested_configs_are_looked_at(tmp_path: Path) -> None:
    folder = tiny.write_image_text(tmp_path, "CLIP")
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["num_registers"] = 4
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SourceError, match=r"does not read: vision_config\.num_registers = 4$"):
        load_model(SPEC, AutoModel, folder)


def with_weights(folder: Path, *names: str) -> Path:
    file = folder / "model.safetensors"
    save_file(load_file(file) | {name: torch.ones(4, 4) for name in names}, file, {"format": "pt"})
    return folder


def test_weights_that_the_model_does_not_take_are_refused_by_name(tmp_path: Path) -> None:
    folder = with_weights(
        tiny.write_plain(tmp_path), "encoder.layer.0.attention.self.q_norm.weight", "projection.weight"
    )
    with pytest.raises(
        SourceError,
        match=rf"has weights that transformers {HERE} does not read: "
        r"encoder\.layer\.0\.attention\.self\.q_norm\.weight, projection\.weight$",
    ):
        load_model(SPEC, AutoModel, folder)


def test_layers_beyond_those_of_the_config_are_refused(tmp_path: Path) -> None:
    folder = edited(tmp_path, "BERT", {"num_hidden_layers": 2})
    with pytest.raises(SourceError, match=r"does not read: encoder\.layer\.2\."):
        load_model(SPEC, AutoModel, folder)


def test_weights_that_the_caller_reads_are_its_own(tmp_path: Path) -> None:
    folder = with_weights(tiny.write_plain(tmp_path), "linear.weight")
    load_model(SPEC, AutoModel, folder, own=("linear.",))
    with pytest.raises(SourceError, match=r"does not read: linear\.weight$"):
        load_model(SPEC, AutoModel, folder)


@pytest.mark.parametrize("architecture", ["MaskedLM", "SequenceClassification", "TokenClassification"])
@pytest.mark.parametrize("name", [name for name in tiny.ENCODERS if name != "T5"])
def test_heads_are_left_out(name: str, architecture: str, tmp_path: Path) -> None:
    model = getattr(transformers, f"AutoModelFor{architecture}").from_config(tiny.config(name))
    load_model(SPEC, AutoModel, tiny.write(tmp_path, model, tiny.tokenizer(name)))


def test_buffers_of_older_versions_are_no_weights() -> None:
    names = ["embeddings.position_ids", "layers.0.self_attn.rotary_emb.inv_freq", "lm_head.weight", "header.weight"]
    assert unread_weights(names) == ["header.weight"]


@pytest.mark.parametrize("name", ["CLIP", "ChineseCLIP", "SigLIP", "SigLIP 2"])
def test_image_processors_do_what_their_files_say(name: str, tmp_path: Path) -> None:
    load_processor(SPEC, tiny.write_image_text(tmp_path, name))


def test_sizes_as_they_were_written_first_are_those_that_were_loaded(tmp_path: Path) -> None:
    changes = {"crop_size": 24, "do_center_crop": True, "feature_extractor_type": "CLIPFeatureExtractor", "size": 32}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(changes | {"image_mean": [0.5, 0.4, 0.3]}))
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    assert changed_settings(tmp_path, AutoImageProcessor.from_pretrained(tmp_path)) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_sharpen": True}, "do_sharpen = true"),
        ({"size_divisor": 16}, "size_divisor = 16"),
    ],
)
def test_image_settings_that_are_not_done_are_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    file = tiny.write_image_text(tmp_path, "CLIP") / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(SourceError, match=rf"has image settings that transformers {HERE} does not read: {message}$"):
        load_processor(SPEC, tmp_path)


def test_two_files_of_an_image_processor_must_agree(tmp_path: Path) -> None:
    file = tiny.write_image_text(tmp_path, "CLIP") / "preprocessor_config.json"
    nested = json.loads(file.read_text()) | {"resample": 2}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": nested}))
    with pytest.raises(SourceError, match=r"does not read: resample = 3$"):
        load_processor(SPEC, tmp_path)


def test_modules_of_sentence_transformers_do_what_their_files_say() -> None:
    dense = Dense(4, 2)
    assert changed_module(dense.get_config_dict(), dense) == []
    assert changed_module({"in_features": 4, "use_gate": True}, dense) == ["use_gate = true"]
    # It is not imported without trust_remote_code, and Tanh is taken instead.
    assert changed_module({"activation_function": "mine.Gelu"}, dense) == ['activation_function = "mine.Gelu"']
    assert changed_module({"p": 1}, Normalize()) == ["p = 1"]


def test_module_that_leaves_out_what_its_file_says_is_refused(tmp_path: Path) -> None:
    folder = tiny.write_embedding(tmp_path, dense=True)
    file = folder / "2_Dense" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_gate": True}))
    with pytest.raises(SourceError, match=r"does not read: 2_Dense: use_gate = true$"):
        text_embedding.load(ModelSpec(name="tiny", task="text-embedding", source=str(folder)), folder)


@pytest.mark.parametrize("generation", ["BertTokenizer", "TokenizersBackend", "PreTrainedTokenizerFast"])
def test_tokenizers_of_both_generations_are_those_of_the_library(generation: str, tmp_path: Path) -> None:
    folder = tiny.write_embedding(tmp_path)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": generation}))
    (tower,) = text_embedding.load(ModelSpec(name="tiny", task="text-embedding", source=str(folder)), folder)
    reference = SentenceTransformer(str(folder), device="cpu")
    assert tower.vocabulary is not None
    for text in (*tiny.TEXTS[:20], "HÉLLO wörld 你好 [MASK]"):
        assert tower.vocabulary.tokenizer.encode(text).ids == reference.tokenizer(text)["input_ids"]


@pytest.mark.parametrize(
    ("normalize", "versions"),
    [
        ("sentence_transformers.models.Normalize", {"sentence_transformers": "3.4.1", "transformers": "4.49.0"}),
        ("sentence_transformers.base.modules.normalize.Normalize", {"sentence_transformers": "6.2.0"}),
    ],
)
def test_normalization_of_both_generations_is_loaded(normalize: str, versions: dict[str, str], tmp_path: Path) -> None:
    folder = tiny.write_embedding(tmp_path)
    modules = json.loads((folder / "modules.json").read_text())
    modules[-1]["type"] = normalize
    (folder / "modules.json").write_text(json.dumps(modules))
    file = folder / "config_sentence_transformers.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"__version__": versions}))
    assert isinstance(list(text_embedding.pipeline(table(folder), folder))[-1], Normalize)


def table(folder: Path) -> ModelSpec:
    return ModelSpec(name="tiny", task="text-embedding", source=str(folder))


def test_window_that_was_halved_when_it_was_saved_is_refused(tmp_path: Path) -> None:
    folder = edited(tmp_path, "EmbeddingGemma", {"sliding_window": 9})  # transformers 4.57 writes so for 16
    with pytest.raises(SourceError, match=r"sliding_window = 9, which was halved when it was saved \(16 before\)$"):
        load_model(SPEC, AutoModel, folder)
