"""Whether what a folder's config says is what was loaded: each of its values must reach code that computes.

transformers keeps a key that it does not know as an attribute that no code reads, and loads the model without it.
A folder of a newer version, or of a much older one, then computes other numbers without a word. The evidence used here
is the source code of the loaded model: the names that it reads of its config, and whether their values follow the
folder's JSON.
"""

import copy
import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PretrainedConfig
from transformers.image_utils import SizeDict
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from export.loading.versions import read

Model = Any
"""A model of transformers, or an image processor."""
Read = Mapping[str, Any]
"""The config values that a model's code reads."""
Keys = tuple[str, ...]
"""The keys that lead to a value."""

READS = re.compile(r"""config(?=\.(\w+))|(?:get|has)attr\(\s*[\w.]*config\w*,\s*["'](\w+)["']""")
"""An attribute of the config in a model's code."""
OWN_READS = re.compile(r"self\.(\w+)")
"""An attribute of the config in the config's own code."""
SHARED = ("masking_utils", "modeling_layers", "modeling_rope_utils", "integrations.sdpa_attention")
"""Modules of transformers that read the config of every model, beside its own."""
RUN = frozenset(
    {
        "architectures",
        "dtype",
        "gradient_checkpointing",
        "name_or_path",
        "output_attentions",
        "output_hidden_states",
        "per_layer_config",
        "quantization_config",
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "use_return_dict",
    }
)
"""Keys that say how a model is run. The exporter sets these itself and ignores the folder's values."""
HARMLESS = RUN - {"per_layer_config", "quantization_config"} | {
    # Names and records.
    "auto_map",
    "chunk_size_feed_forward",  # the same in parts
    "directionality",
    "finetuning_task",
    "id2label",
    "label2id",
    "model_type",
    "num_labels",
    "prefix",
    "problem_type",
    "processor_class",
    "sbert_ce_default_activation_function",  # read by export.tasks.cross_encoder
    "sentence_transformers",  # likewise
    "task_specific_params",
    "tokenizer_class",
    # Never read by any code of transformers.
    "dense_seq_output",
    "down_scale_factor",
    "gap_size",
    "max_trained_positions",
    "n_positions",  # a table of another size would not load
    "net_structure_type",
    "num_image_tokens",
    "num_memory_blocks",
    # Which of several ways to compute the same.
    "deterministic_flash_attn",
    "fused_bias_fc",
    "fused_dropout_add_ln",
    "pad_vocab_size_multiple",
    "pretraining_tp",
    "reference_compile",
    "reorder_and_upcast_attn",
    "torchscript",
    "unpad_inputs",
    "use_bfloat16",
    "use_flash_attn",
    "use_memory_efficient_attention",
    "use_xentropy",
    # Training.
    "layerdrop",
    "pack_qkv",
    "repad_logits_with_grad",
    "sparse_pred_ignore_index",
    "sparse_prediction",
    "tf_legacy_loss",
    # Heads that are not loaded here, and decoding.
    "bad_words_ids",
    "cache_implementation",
    "generator_hidden_size",
    "max_length",
    "output_past",
    "output_scores",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
    "remove_invalid_values",
    "return_dict_in_generate",
    "tie_encoder_decoder",
    "tie_weights_",
    "tie_word_embeddings",
    "typical_p",
    *GenerationConfig._get_default_generation_params(),
}
"""Keys that never change what an encoder computes in inference, at any depth."""
HARMLESS_FORMS = re.compile(r"^_|dropout|_pdrop$|_token_(id|ids|index)$|^initializer_|^summary_")
"""Forms of other harmless keys. If a model's code does read one, such as RoBERTa's pad_token_id, it is loaded."""
NEUTRAL: Mapping[str, Any] = {
    "activation_function": "swiglu",  # NomicBERT's, with hidden_act = "silu" and a gate
    "add_cross_attention": False,
    "causal": False,
    "conv_kernel_size": 0,
    "cross_attention_hidden_size": None,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "parallel_block": False,
    "parallel_block_tied_norm": False,
    "position_embedding_type": "absolute",  # BERT's relative ones are gone from transformers 5
    "prenorm": False,
    "qkv_proj_bias": False,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True,
    "use_mrope": False,
    "use_rms_norm": False,
}
"""Values that say what code which does not know their keys does anyway."""
AGAIN: Mapping[str, tuple[Keys, ...]] = {
    "global_rope_theta": (("rope_parameters", "full_attention", "rope_theta"),),
    "layer_norm_eps": (("norm_eps",),),
    "layer_norm_epsilon": (("layer_norm_eps",),),
    "local_rope_theta": (("rope_parameters", "sliding_attention", "rope_theta"),),
    "n_embd": (("hidden_size",),),
    "n_head": (("num_attention_heads",),),
    "n_inner": (("intermediate_size",),),
    "n_layer": (("num_hidden_layers",),),
    "partial_rotary_factor": (("rope_parameters", "partial_rotary_factor"),),
    "rope_local_base_freq": (("rope_parameters", "sliding_attention", "rope_theta"),),
    "rope_theta": (("rope_parameters", "rope_theta"), ("rope_parameters", "full_attention", "rope_theta")),
    "rotary_emb_base": (("rope_parameters", "rope_theta"),),
    "type": (("rope_type",),),
}
"""Older keys, and the relative paths at which the loaded config may hold the same value."""
HEADS = re.compile(
    r"^(cls|(pre_)?classifier|classification_head|decoder\.(bias|weight)|dense\.(bias|weight)|\w+_predictions|embed_out"
    r"|(generator_)?lm_head|head|(\w+\.)?pooler|predictions|qa_outputs|score|seq_relationship|sop_classifier|vocab_\w+)\b"
)
"""Weights of heads, which a model without a head or with another one does not take."""
BUFFERS = re.compile(r"\b(inv_freq|masked_bias|position_ids|token_type_ids)$")
"""Buffers that transformers before 4.31 saved with the weights."""
IMAGE_HARMLESS = re.compile(
    r"^_|_type$|data_format$|^(auto_map|device|disable_grouping|processor_class|return_tensors)$"
)
"""Keys of an image processor that never change its pixels."""
LAYERS = ("global_attn_every_n_layers", "sliding_window_pattern")
"""Older keys that layer_types spells out."""


@dataclass(frozen=True, slots=True)
class _Sources:
    """Source code that computes a model."""

    text: str
    names: frozenset[str]
    """The config attributes that it reads."""


def dropped(folder: Path, model: Model) -> list[str]:
    """Settings in a folder's config.json that its model does not use, each as "key = value".

    Args:
        folder: a transformers folder.
        model: the model loaded from it.
    """
    config = PretrainedConfig._decode_special_floats(read(folder / "config.json"))
    sources = _sources(model)

    def code_reads(content: Mapping[str, Any]) -> Read:
        return _reads(type(model.config).from_dict(copy.deepcopy(dict(content))), sources)

    fresh, loaded = code_reads(config), _reads(model.config, sources)
    changed = [f"{key} = {fresh[key]!r}" for key in sorted(fresh) if fresh[key] != loaded.get(key)]

    def matters(path: Keys, value: object) -> bool:
        """Whether another value there is read by the model's code."""
        return any(is_read_as_other(path, other) for other in _others(value))

    def is_read_as_other(path: Keys, value: object) -> bool:
        other = copy.deepcopy(config)
        _at(other, path[:-1])[path[-1]] = value
        try:
            return code_reads(other) != fresh
        except Exception:  # noqa: BLE001 - of whatever kind: the value was looked at, and refused
            return True

    def is_spelled_out(path: Keys) -> bool:
        """Whether layer_types, which counts more, says the same."""
        other = copy.deepcopy(config)
        spelled = path[-1] in LAYERS and _at(other, path[:-1]).pop("layer_types", None)
        return bool(spelled) and code_reads(other) == fresh

    return (
        _halved(config)
        + changed
        + [
            f"{'.'.join(path)} = {json.dumps(value)}"
            for path, value in _leaves(config)
            if not _is_harmless(path[-1], value)
            and not _is_read(model.config, path, value, fresh)
            and not _is_condition(model.config, path)
            and not _is_said_again(model.config, path, value)
            and not matters(path, value)
            and not is_spelled_out(path)
        ]
    )


def _halved(config: Mapping[str, Any]) -> list[str]:
    """The window of an EmbeddingGemma that transformers 4.57 has saved: it wrote half of it, and 5 halves it again.

    Published windows are even; half of one and the token itself, as it was written, is odd.
    """
    window = config.get("sliding_window")
    if config.get("use_bidirectional_attention") is not True or not isinstance(window, int) or window % 2 == 0:
        return []
    return [f"sliding_window = {window}, which was halved when it was saved ({(window - 1) * 2} before)"]


def _leaves(config: Mapping[str, Any], before: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """All values with the keys that lead to them; a list is one value."""
    for key, value in config.items():
        if key in HARMLESS:
            continue
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*before, key))
        else:
            yield (*before, key), value


def _is_harmless(key: str, value: object) -> bool:
    says_nothing = value is None or value in ({}, [])
    is_neutral = key in NEUTRAL and value == NEUTRAL[key]
    return says_nothing or is_neutral or HARMLESS_FORMS.search(key) is not None


def _is_read(config: PretrainedConfig, path: Keys, value: object, reads: Read) -> bool:
    """Whether it is an attribute that code reads, with this value."""
    for parent in path[:-1]:
        inner = getattr(config, parent, None)
        if not isinstance(inner, PretrainedConfig):
            return False
        config, reads = inner, reads.get(parent, {})
    key = config.attribute_map.get(path[-1], path[-1])
    names = {config.attribute_map.get(name, name) for name in reads}
    return key in names and bool(_value(config, key) == value)


def _value(config: PretrainedConfig, name: str) -> Model:
    """An attribute of a config, also where transformers keeps it from being read since layers differ in it."""
    return config._getattr_without_heterogeneous_validation(name, None)


def _is_condition(config: PretrainedConfig, path: Keys) -> bool:
    """Whether it is an argument that its config's own code weighs against others, as use_sliding_window decides."""
    *parents, key = path
    inner = _at(config, tuple(parents))
    if not isinstance(inner, PretrainedConfig):
        return False
    return key in type(inner).__annotations__ and key in OWN_READS.findall(inspect.getsource(type(inner)))


def _is_said_again(config: PretrainedConfig, path: Keys, value: object) -> bool:
    """Whether it only repeats, under an older name, what was loaded."""
    places = (_at(config, (*path[:-1], *other)) for other in AGAIN.get(path[-1], ()))
    return next((place for place in places if place is not None), None) == value


def _at(content: Model, path: Keys) -> Model:
    """The value at this path of keys or attributes, or None."""
    for key in path:
        content = content.get(key) if isinstance(content, dict) else getattr(content, key, None)
    return content


def _others(value: object) -> tuple[object, ...]:
    """Other values of the same type. One alone may mean the same: every fifth of two layers is every second."""
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, (int, float)):
        return value * 2 + 1, 1, 2
    return ([*value, *value],) if isinstance(value, list) else (f"{value}?",)


def _reads(config: PretrainedConfig, sources: _Sources) -> Read:
    """Names and values that code reads of a config, and of those in it."""
    values = {name: _value(config, name) for name in sources.names}
    if config.is_heterogeneous:
        values["per_layer_config"] = [_reads(layer, sources) for layer in config.per_layer_config]
    if isinstance(values.get("rope_parameters"), dict):
        values["rope_parameters"] = _rope(config, sources)
        values.pop("rope_scaling", None)  # the same by its former name
    return {
        name: _reads(value, sources) if isinstance(value, PretrainedConfig) else value
        for name, value in values.items()
        if value is not None and not callable(value)
    }


def _rope(config: PretrainedConfig, sources: _Sources) -> Read:
    """The rotary settings that code reads: by type of layer if there are several, else under ""."""
    parameters = config.rope_parameters
    by_kind = {kind: settings for kind, settings in parameters.items() if isinstance(settings, dict)}
    # As transformers' own nested_rope_parameter_keys, which is not in 5.17.
    kinds = getattr(config, "_rope_type_labels", None) or getattr(config, "layer_types", None) or ()
    if not any(kind in kinds for kind in parameters):
        by_kind = {"": {key: value for key, value in parameters.items() if key not in by_kind}}
    text, own = sources.text, type(config).ignore_keys_at_rope_validation
    return {
        kind: {
            key: value for key, value in settings.items() if key in own or f'"{key}"' in text + _rope_source(settings)
        }
        for kind, settings in by_kind.items()
    }


def _rope_source(settings: Mapping[str, Any]) -> str:
    compute = ROPE_INIT_FUNCTIONS.get(settings.get("rope_type", ""))
    return inspect.getsource(compute) if compute else ""


def _sources(model: Model) -> _Sources:
    kinds = {kind for module in model.modules() for kind in type(module).__mro__}
    modules = {kind.__module__ for kind in kinds if not kind.__module__.startswith(("torch.", "builtins"))}
    modules -= {"transformers.generation.utils", "transformers.modeling_rope_utils"}
    text = "".join(map(_source, sorted(modules)))
    own = "".join(inspect.getsource(kind) for kind in {type(inner) for inner in _configs(model.config)})
    names = {name for found in READS.findall(text + _shared()) for name in found} | set(OWN_READS.findall(own))
    return _Sources(text, frozenset(name for name in names - RUN if name and not name.startswith("_")))


def _configs(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    """A config and all those in it."""
    yield config
    for value in vars(config).values():
        if isinstance(value, PretrainedConfig):
            yield from _configs(value)


@cache
def _source(module: str) -> str:
    return inspect.getsource(sys.modules[module])


@cache
def _shared() -> str:
    return "".join(inspect.getsource(importlib.import_module(f"transformers.{module}")) for module in SHARED)


def unread_weights(names: Iterable[str]) -> list[str]:
    """The unused weights that may belong to the model."""
    return sorted(name for name in names if not HEADS.search(name) and not BUFFERS.search(name))


def changed_settings(folder: Path, processor: Model) -> list[str]:
    """Settings in the files of an image processor that it does not apply, each as "key = value".

    Args:
        folder: has a preprocessor_config.json or, since transformers 5, perhaps a processor_config.json.
        processor: the processor loaded from it.
    """
    files = read(folder / "preprocessor_config.json"), read(folder / "processor_config.json").get("image_processor")
    return [
        f"{key} = {json.dumps(value)}"
        for one in files
        for key, value in (one or {}).items()
        if not IMAGE_HARMLESS.search(key) and not _is_done(processor, key, value)
    ]


def _is_done(processor: Model, key: str, value: object) -> bool:
    if value is None or (value is False and key not in processor.valid_kwargs.__annotations__):
        return True  # what is not asked for
    loaded = getattr(processor, key, None)
    if key not in processor.valid_kwargs.__annotations__ or loaded is None:
        return False
    if isinstance(loaded, SizeDict):
        lengths = dict(loaded)
        return bool(lengths == value or set(lengths.values()) == {value})  # a size may be given as one length
    return bool((list(loaded) if isinstance(loaded, tuple) else loaded) == value)


def changed_module(settings: Mapping[str, Any], module: Model) -> list[str]:
    """Settings in the config.json of a sentence-transformers module that it does not apply, each as "key = value"."""
    accepted = inspect.signature(type(module)).parameters
    does = module.get_config_dict()
    return [
        f"{key} = {json.dumps(value)}"
        for key, value in settings.items()
        if value is not None and (key not in accepted or _class(does.get(key, value)) != _class(value))
    ]


def _class(value: object) -> object:
    """A value, of an import path the last part: torch has its classes in several places."""
    return value.rpartition(".")[2] if isinstance(value, str) else value
