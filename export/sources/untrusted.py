"""A source's folder is data: what in it could be more is refused before any library reads it.

Libraries run what a folder names in many ways: a class by its import path, a file beside the weights, a pickle instead
of safetensors, another model by its path. All JSON of a folder is therefore looked through first, wherever it lies, and
checked against lists of allowed values.
"""

import importlib.metadata
import json
import pickletools
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from export.errors import SourceError
from export.manifest import ModelSpec

MIB = 2**20
MOST_BYTES: Mapping[str, int] = {
    "tokenizer.json": 64 * MIB,
    "vocab.json": 64 * MIB,
    "added_tokens.json": 64 * MIB,
    "tekken.json": 64 * MIB,
    "*.index.json": 64 * MIB,
    "*.json": 8 * MIB,
    "artifact.metadata": 8 * MIB,
    "*.jinja": 8 * MIB,
    "*.md": 8 * MIB,
    "*.txt": 64 * MIB,
    "*.model": 64 * MIB,
    "*_linear.pt": 64 * MIB,
}
"""The first pattern that a file's name matches decides. Gemma 3's tokenizer.json has 33 MB."""
VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json", "tekken.json")
"""JSON files whose keys are tokens. Nothing in them is code, and the libraries that parse them are not Python."""
OBJECTS = ("config.json", ".index.json", ".metadata")
"""Endings of JSON files that libraries expect to hold an object."""
LISTS = ("data_config.json",)
"""JSON files that may hold a list: no library reads them, but many folders of sentence-transformers have them."""

LAYERS, WIDTH, HEADS, WORDS = 1_000, 2**18, 2**14, 2**24
MOST: Mapping[str, int] = {
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_decoder_layers"), LAYERS),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_hidden_groups", "inner_group_num", "depths"), LAYERS),
    **dict.fromkeys(("hidden_size", "hidden_dim", "d_model", "dim", "n_embd", "embedding_size"), WIDTH),
    **dict.fromkeys(("intermediate_size", "d_ff", "n_inner", "hidden_sizes", "projection_dim"), WIDTH),
    **dict.fromkeys(("in_features", "out_features", "image_size", "num_patches"), WIDTH),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "num_heads", "n_head", "n_heads"), HEADS),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "type_vocab_size"), HEADS),
    **dict.fromkeys(("vocab_size", "max_position_embeddings", "n_positions", "num_labels"), WORDS),
}
"""Sizes of a model, or of each of its stages, an order of magnitude above those of the largest: a config with a million
layers is built for hours before anyone sees that the weights are missing."""

PROMPTS = ("prompts", "query_prefix", "document_prefix", "query_token_id", "doc_token_id")
MOST_PROMPTED = 16 * 1024
"""Characters of all prompts together: they go into config.pbtxt, and before every text."""

CODE = ("auto_map", "trust_remote_code", "custom_pipelines", "custom_generate")
"""Keys that name code of the source's own, or ask for it to be run."""
ELSEWHERE = ("attribute_map", "audio_tokenizer", "backbone", "corda_config", "megatron_config", "quantization_config")
"""Keys for which libraries import further packages, read models and files that are somewhere else, or give one of these
another name."""
TOKENIZER = frozenset(
    {
        "gguf_file",
        "init_inputs",
        "jumanpp_kwargs",
        "mecab_kwargs",
        "merges",
        "sudachi_kwargs",
        "tokenizer_object",
        "vocab",
    }
)
"""Arguments of tokenizers that name files, and which tokenizer_config.json must not give."""
SPECIAL = re.compile(r"\w+_tokens?")
"""The keys of special_tokens_map.json. transformers takes any other one for an argument too."""
WORD = re.compile(r"\w*")
ACTIVATION = re.compile(r"\w*|torch\.nn\.modules\.\w+\.[A-Z]\w*")
SAFETENSORS = re.compile(r"\w[\w.-]*\.safetensors")
NAMES: Mapping[str, re.Pattern[str]] = {
    **dict.fromkeys(("tokenizer_class", "processor_class", "feature_extractor_type"), WORD),
    **dict.fromkeys(("image_processor_type", "video_processor_type", "architectures"), WORD),
    **dict.fromkeys(("attn_implementation", "_attn_implementation", "_attn_implementation_internal"), WORD),
    **dict.fromkeys(("experts_implementation", "_experts_implementation", "_experts_implementation_internal"), WORD),
    **dict.fromkeys(("activation_fn", "activation_function", "default_activation_function"), ACTIVATION),
    "sbert_ce_default_activation_function": ACTIVATION,
    "fast_tokenizer_files": re.compile(r"\w[\w.-]*\.json"),
    "megatron_core": re.compile(r"megatron\.core"),
    "parent_library": re.compile(r"transformers(\.\w+)*"),
    "transformers_weights": re.compile(r"\w[\w.-]*\.safetensors(\.index\.json)?"),
}
"""Allowed names of classes, functions and files. Libraries import them, fetch kernels `owner/name` or open files."""

LOADS_OTHERS = (
    *("bark", "mgp-str", "oneformer", "pix2struct", "qwen2_5_omni", "rag", "wav2vec2"),  # files of their own, pickles
    *("lightglue", "timm_backbone", "timm_wrapper"),  # models by a name in the config: CVE-2026-5241
    *("mra", "rwkv", "sam3_video", "yoso"),  # kernels
)
"""The `model_type`s of transformers whose code reads more than config, weights and tokenizer of the folder."""

MODULES = (
    *("Transformer", "MLMTransformer", "CLIPModel", "StaticEmbedding", "SparseStaticEmbedding", "Router", "Asym"),
    *("Pooling", "SpladePooling", "WeightedLayerPooling", "HierarchicalTokenPooling"),
    *("Dense", "Dropout", "LayerNorm", "Normalize", "SparseAutoEncoder", "MultiVectorMask"),
    *("CausalScoreHead", "IDF", "LogitScore"),
)
"""The modules of sentence-transformers that are data: others read pickles or import what their config names."""
_OWN = "base|cross_encoder|multi_vector_encoder|sentence_transformer|sparse_encoder"
MODULE = re.compile(
    rf"(?:sentence_transformers\.(?:(?:{_OWN})\.)?(?:modules|models)(?:\.\w+)?|pylate\.models\.Dense)\.(?P<name>\w+)"
)
"""A module in modules.json: `sentence_transformers.models.Dense` before 5.4, `.base.modules.dense.Dense` since."""
OF_TRANSFORMERS = ("Transformer", "MLMTransformer", "CLIPModel")
"""The modules whose weights transformers reads; it is told to load safetensors only."""

TENSORS = ("colbert_linear.pt", "sparse_linear.pt")
"""Files of torch that are read: the layers of bge-m3, which have no other form. All that they may hold is tensors."""
TENSOR_CODE = frozenset(
    {"collections OrderedDict", "torch._utils _rebuild_tensor_v2"}
    | {f"torch {kind}Storage" for kind in ("Float", "Half", "BFloat16")}
)
"""What the pickle in such a file may call. torch's own reader, told to read weights only, allows a little more."""

PICKLE = (
    "which can run code when it is loaded; convert the weights to safetensors, or set allow_pickle = true"
    " (add: --allow-pickle)"
)
"""The message about a pickle."""

SETTINGS: Mapping[str, frozenset[str]] = {
    "model": frozenset({"dtype", "torch_dtype", "attn_implementation", "add_pooling_layer"}),
    "processor": frozenset(
        {"model_max_length", "padding_side", "truncation_side", "use_fast", "do_lower_case", "add_prefix_space"}
        | {"clean_up_tokenization_spaces", "fix_mistral_regex", "min_pixels", "max_pixels"}
    ),
    "config": frozenset({"attn_implementation", "is_causal", "use_bidirectional_attention", "num_labels", "use_cache"}),
}
"""The arguments of transformers' `from_pretrained` that sentence_bert_config.json may give."""
_OLD = {"model": "model_args", "processor": "tokenizer_args", "config": "config_args"}


class _Refused(Exception):  # noqa: N818 - it never leaves this module
    """Why a folder is not read."""


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder that has been looked through."""

    path: Path
    files: frozenset[str]
    """Paths relative to the folder."""
    contents: Mapping[str, Any]
    """The parsed JSON files, except vocabularies."""


def inspect(spec: ModelSpec, key: str, path: Path) -> frozenset[str]:
    """Look through a folder before a library does.

    Args:
        spec: says whether pickles and code are allowed.
        key: that names the folder, "source" or "image_source".
        path: the folder. It is a transformers or sentence-transformers folder, or a snapshot in the hub's cache.

    Returns:
        The files in it, relative to it.

    Raises:
        SourceError: a file in it is not a regular one, leads out of it or is too large; JSON is broken or not of the
            form that it should have; it names code, another model, weights that are no safetensors or a size beyond
            any model's, and the table does not allow it.
    """
    found = files(spec, key, path)
    with _saying(spec, key):
        folder = _Folder(path, found, {file: _json(path / file, file) for file in sorted(found) if _is_json(file)})
        for file, content in folder.contents.items():
            _check_sizes(file, content)
            _check_prompts(file, content)
            if not spec.allow_remote_code:
                _check_code(file, content)
                _check_settings(spec, file, content)
        _check_modules(spec, folder)
        _check_weights(spec, folder)
        for file in sorted(found.intersection(TENSORS)):
            _check_tensors(file, path / file)
        _check_adapters(spec, folder)
    return found


def files(spec: ModelSpec, key: str, path: Path) -> frozenset[str]:
    """Check only that a folder holds nothing but files of readable sizes; returns them, as `inspect` does.

    Raises:
        SourceError: a file is not a regular one, leads out of the folder or is too large.
    """
    with _saying(spec, key):
        return frozenset(_files(path))


@contextmanager
def _saying(spec: ModelSpec, key: str) -> Iterator[None]:
    try:
        yield
    except _Refused as exc:
        raise SourceError(f"[{spec.name}] {key}: {exc}") from None
    except (OSError, RuntimeError) as exc:  # the latter of links in a circle
        raise SourceError(f"[{spec.name}] {key}: cannot be read: {exc}") from exc


def _files(root: Path) -> Iterator[str]:
    """The files below a folder, relative to it, none of which is more than a file.

    A snapshot of the hub's cache is links into the folder of blobs beside it, which is that model's alone.
    """
    inside = [root.resolve()]
    if root.parent.name == "snapshots":
        inside.append((root.parent.parent / "blobs").resolve())
    waiting = [root]
    while waiting:
        for path in waiting.pop().iterdir():
            name = path.relative_to(root).as_posix()
            if path.is_symlink() and not any(path.resolve().is_relative_to(one) for one in inside):
                raise _Refused(f"{name} is a link that leads out of the folder")
            mode = path.stat().st_mode
            if stat.S_ISREG(mode):
                _check_bytes(name, path)
                yield name
            elif not stat.S_ISDIR(mode):
                raise _Refused(f"{name} is not a regular file")
            elif path.is_symlink():
                raise _Refused(f"{name} is a link to a folder")
            elif not path.name.startswith("."):  # as .git: no module may lie there
                waiting.append(path)


def _check_bytes(name: str, path: Path) -> None:
    for pattern, most in MOST_BYTES.items():
        if path.match(pattern):
            if (size := path.stat().st_size) > most:
                raise _Refused(f"{name} has {size / MIB:,.1f} MiB, more than the allowed {most // MIB}")
            return


def _is_json(file: str) -> bool:
    name = PurePosixPath(file).name
    return name not in VOCABULARIES and (name.endswith(".json") or name == "artifact.metadata")


def _json(path: Path, file: str) -> Any:  # noqa: ANN401 - JSON
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as exc:
        raise _Refused(f"{file} is not JSON: {exc}") from exc
    name = PurePosixPath(file).name
    if name == "modules.json":
        if not isinstance(content, list) or not all(isinstance(one, dict) for one in content):
            raise _Refused(f"{file} is not a list of objects")
    elif name.endswith(OBJECTS) and name not in LISTS and not isinstance(content, dict):
        raise _Refused(f"{file} is not an object")
    return content


def _entries(content: object) -> Iterator[tuple[str, Any]]:
    """All keys with their values, however deep they are."""
    waiting = [content]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield from one.items()
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _values(value: object) -> Iterator[object]:
    """A value, or those that it holds."""
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _values(one) if isinstance(one, dict | list) else (one,)
    else:
        yield value


def _check_sizes(file: str, content: object) -> None:
    for key, value in _entries(content):
        for number in _values(value) if key in MOST else ():
            if isinstance(number, int | float) and abs(number) > MOST[key]:
                raise _Refused(f"{file} {key}: {number:,} is more than the allowed {MOST[key]:,}")


def _check_prompts(file: str, content: object) -> None:
    prompts = [text for key, value in _entries(content) if key in PROMPTS for text in _values(value)]
    if (length := sum(len(text) for text in prompts if isinstance(text, str))) > MOST_PROMPTED:
        raise _Refused(f"{file} prompts: have {length:,} characters, more than the allowed {MOST_PROMPTED:,}")


def _check_code(file: str, content: object) -> None:
    for key, value in _entries(content):
        if key in CODE and value:
            raise _Refused(
                f"{file} refers to its own code ({key}), which runs only with allow_remote_code = true; if"
                " transformers supports the model itself, remove the key in a copy of the folder"
            )
        if key in ELSEWHERE and value is not None:
            raise _Refused(f"{file} {key}: is not supported, since it reads files outside of the folder")
        for name in _values(value) if key in NAMES else ():
            if name is not None and not (isinstance(name, str) and NAMES[key].fullmatch(name)):
                raise _Refused(f"{file} {key}: names {_shown(name)}, which is read only with allow_remote_code = true")
        if key == "model_type" and value in LOADS_OTHERS:
            raise _Refused(f"{file} model_type: {value} is not supported, since it reads files outside of the folder")
    if isinstance(content, dict):
        _check_kind(file, content)


def _check_kind(file: str, content: Mapping[str, Any]) -> None:
    """Check what only files of one name may hold, or must not."""
    match PurePosixPath(file).name:
        case "config.json" if "model_type" in content:
            _check_type(file, content)
        case "special_tokens_map.json":
            _refuse_keys(file, (key for key in content if not SPECIAL.fullmatch(key)))
        case "tokenizer_config.json":
            _refuse_keys(file, (key for key in content if key in TOKENIZER and content[key]))


def _refuse_keys(file: str, keys: Iterable[str]) -> None:
    for key in keys:
        raise _Refused(f"{file} {key}: is not supported, since it can refer to files outside of the folder")


def _check_type(file: str, config: Mapping[str, Any]) -> None:
    # Imported here: it takes a second, and most commands find everything built.
    from transformers.models.auto.auto_mappings import CONFIG_MAPPING_NAMES  # noqa: PLC0415

    kind = config["model_type"]
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING_NAMES:
        saved = config.get("transformers_version")
        by = f"; the folder was saved by transformers {_shown(saved)}" if saved else ""
        version = importlib.metadata.version("transformers")
        raise _Refused(f"{file} model_type: {_shown(kind)} is unknown to transformers {version}{by}")


def _check_settings(spec: ModelSpec, file: str, content: object) -> None:
    """Hold what sentence_bert_config.json passes on to transformers against the list."""
    if not re.fullmatch(r"sentence_\S+_config\.json", PurePosixPath(file).name) or not isinstance(content, dict):
        return
    for part, known in SETTINGS.items():
        allowed = known | ({"weights_only", "use_safetensors"} if spec.allow_pickle else set()) | {"trust_remote_code"}
        for name in (f"{part}_kwargs", _OLD[part]):
            given = content.get(name) or {}
            if not isinstance(given, dict):
                raise _Refused(f"{file} {name}: is not an object")
            for setting, value in given.items():
                if setting not in allowed or isinstance(value, dict | list):
                    raise _Refused(
                        f"{file} {name}: {_shown(setting)} is read only with allow_remote_code = true; known"
                        f" settings: {', '.join(sorted(known))}"
                    )


def _check_modules(spec: ModelSpec, folder: _Folder) -> None:
    for file, path, kind in _modules(folder):
        if not isinstance(path, str) or not is_inside(path):
            raise _Refused(f"{file} path: {_shown(path)} is not a path inside the folder")
        if not isinstance(kind, str):
            raise _Refused(f"{file} type: {_shown(kind)} is not a name")
        known = MODULE.fullmatch(kind)
        if known is None and not spec.allow_remote_code:
            raise _Refused(
                f"its {file} refers to its own code, {_shown(kind)[1:-1]}, which runs only with"
                " allow_remote_code = true"
            )
        if known and known["name"] not in MODULES:
            raise _Refused(f"{file} type: {known['name']} is not one of {', '.join(sorted(MODULES))}")


def _modules(folder: _Folder) -> Iterator[tuple[str, Any, Any]]:
    """The modules of sentence-transformers that a folder lists: the file, the path and the type of each.

    A Router lists its own under "types", by the name of the folder of each.
    """
    for file, content in folder.contents.items():
        if PurePosixPath(file).name == "modules.json":
            for module in content:
                yield file, module.get("path", ""), module.get("type")
        elif isinstance(content, dict) and "types" in content:
            if not isinstance(content["types"], dict):
                raise _Refused(f"{file} types: is not an object")
            for path, kind in content["types"].items():
                yield file, path, kind


def is_inside(path: str) -> bool:
    """Whether a path that a file names leads to what is looked through: below the folder, and not hidden."""
    hides = any(part.startswith(".") for part in re.split(r"[/\\]", path))
    return not path.startswith(("/", "\\")) and not hides and ":" not in path and "\0" not in path


def _check_weights(spec: ModelSpec, folder: _Folder) -> None:
    """Refuse pickles that a library would read. Those of transformers lie beside safetensors, or are not read."""
    for file, content in folder.contents.items():
        if file.endswith(".safetensors.index.json"):
            _check_index(folder, file, content)
    if spec.allow_pickle:
        return
    adapters = (PurePosixPath(file).parent for file in folder.files if file.endswith("adapter_model.bin"))
    pickles = [(parent, "adapter_model") for parent in adapters]
    for file, path, kind in _modules(folder):
        if kind.rpartition(".")[2] not in OF_TRANSFORMERS:
            pickles.append((PurePosixPath(file).parent / path, "pytorch_model"))
    for parent, name in pickles:
        safe = name.replace("pytorch_", "")
        if _has(folder, parent, f"{name}.bin") and not _has(folder, parent, f"{safe}.safetensors"):
            raise _Refused(f"{(parent / name).as_posix()}.bin is a pickle, {PICKLE}")


def _has(folder: _Folder, parent: PurePosixPath, name: str) -> bool:
    return (parent / name).as_posix() in folder.files


def _check_index(folder: _Folder, file: str, content: Mapping[str, Any]) -> None:
    weights = content.get("weight_map")
    if not isinstance(weights, dict):
        raise _Refused(f"{file} weight_map: is not an object")
    for name in set(map(str, weights.values())):
        if not SAFETENSORS.fullmatch(name):
            raise _Refused(f"{file} weight_map: names {_shown(name)}, but only *.safetensors beside it are read")
        if not _has(folder, PurePosixPath(file).parent, name):
            raise _Refused(f"{file} weight_map: names {_shown(name)}, which is missing")


def _check_tensors(file: str, path: Path) -> None:
    """Refuse a file of torch that is more than tensors by name."""
    most = MOST_BYTES["*_linear.pt"]
    try:
        with zipfile.ZipFile(path) as archive:
            if (size := sum(entry.file_size for entry in archive.infolist())) > most:
                raise _Refused(f"{file} holds {size / MIB:,.1f} MiB, more than the allowed {most // MIB}")
            pickles = [archive.read(name) for name in archive.namelist() if name.endswith(".pkl")]
        called = {
            str(argument) if code.name == "GLOBAL" else code.name
            for pickle in pickles
            for code, argument, _ in pickletools.genops(pickle)
            if code.name in {"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"}
        }
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, IndexError) as exc:
        raise _Refused(f"{file} is no file of torch: {exc}") from exc
    if unknown := sorted(called - TENSOR_CODE):
        raise _Refused(f"{file} holds more than tensors: its pickle calls {_shown(unknown[0])}")


def _check_adapters(spec: ModelSpec, folder: _Folder) -> None:
    """Refuse adapters whose base model would be read from where they say, here or on the hub.

    Embedding models are read without their adapters first, so that none looks for its base.
    """
    for file, content in folder.contents.items():
        if PurePosixPath(file).name != "adapter_config.json":
            continue
        if spec.task != "text-embedding":
            raise _Refused(
                f"{file} is an adapter, which is supported for task text-embedding only: merge it into its base model"
            )
        if not any(_has(folder, parent, "config.json") for parent in PurePosixPath(file).parents):
            base = _shown(content.get("base_model_name_or_path"))
            raise _Refused(
                f"{file} names a base model, {base}, that is not in the folder: save both in one folder, or merge them"
            )


def _shown(value: object) -> str:
    """A value of the source's, short enough for a sentence."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}...'"
