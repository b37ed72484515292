"""Infers the task and the other keys of a model's table from the JSON files and the card of its source.

Nothing of the folder runs, and no weights are read. `optimum` would be of no use here: it infers a task only of models
on the hub, while the hub answers, and takes every folder of sentence-transformers for an embedding model.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from export.errors import SourceError
from export.manifest import TASKS_OF, Pooling, Task
from export.rerankers import LOGIT_SCORE
from export.sources import card, untrusted
from export.sources.card import Card

MOST_BYTES = 64 * 2**20
"""A longer JSON file is refused; the index of a large model's weights has a few megabytes."""
IMAGE_TEXT = ("chinese_clip", "clip", "siglip", "siglip2")
"""The `model_type`s that task image-text is for."""
TOGETHER = ("embedding_gemma2", "modernvbert", "qwen2_5_vl", "qwen2_vl", "qwen3_vl")
"""Those of models that read texts and images together."""

_MODEL_TYPES: Mapping[str, Task] = {
    "SentenceTransformer": "text-embedding",
    "CrossEncoder": "cross-encoder",
    "MultiVectorEncoder": "multi-vector",
    "SparseEncoder": "sparse",
}
"""The task by the class that saved a folder of sentence-transformers."""
_MODULES: Mapping[str, Task] = {
    "CausalScoreHead": "cross-encoder",
    "IDF": "sparse",
    "LogitScore": "cross-encoder",
    "MLMTransformer": "sparse",
    "MultiVectorMask": "multi-vector",
    "Pooling": "text-embedding",
    "SparseAutoEncoder": "sparse",
    "SparseStaticEmbedding": "sparse",
    "SpladePooling": "sparse",
    "Router": "text-embedding",
    "StaticEmbedding": "text-embedding",
}
"""The task by a module that only one task has, for folders that do not name the class."""
_EMBEDDERS = {"feature-extraction", "sentence-similarity"}
"""The hub's names for what an embedding model does; a card of SPLADE or ColBERT has them too."""
_RERANKERS = {"cross-encoder", "reranker", "text-ranking"}
_CLASSIFIERS = {"text-classification", "zero-shot-classification"}
_VISION = {"vision_config", "vlm_config"}
"""Keys of a model's config that hold the config of its vision tower, or that and another."""
_LATE = {"colbert", "late-interaction", "multi-vector"}
_SPARSE_TAGS = {"sparse", "sparse-encoder", "splade"}


@dataclass(frozen=True, slots=True)
class Finding:
    """The value of one key, and what says so."""

    value: object
    evidence: str
    is_guess: bool = False


@dataclass(frozen=True, slots=True)
class Inspection:
    """The result of an inspection."""

    keys: Mapping[str, Finding]
    """The findings, by key of the manifest."""
    open: tuple[str, ...]
    """A sentence for each key that could not be inferred: it begins with the key and says what to do."""


def inspect(name: str, folder: Path, given: Mapping[str, object]) -> Inspection:
    """Infer the keys of a model's table.

    Args:
        name: the name of the table, for messages.
        folder: the folder of the source; weights may be absent.
        given: the keys that the user has named; they are not inferred.

    Raises:
        SourceError: no task serves such a model, or a key has to be given.
    """
    facts = _read(name, folder)
    found: dict[str, Finding] = {}
    if "task" not in given:
        found["task"] = _task(facts)
        if "positive_class" in given and found["task"].value == "classification":
            found["task"] = Finding("cross-encoder", f"{facts.architecture}, and --positive-class")
    task = given.get("task") or found["task"].value
    open_: list[str] = []
    if task == "text-embedding":
        found |= _embedding(facts, given, open_)
    if task == "cross-encoder":
        _check_classes(facts, given)
    if len(facts.routes) > 1 and task in TASKS_OF["variants"]:
        found["variants"] = Finding(list(facts.routes), "the routes of its Router")
    if "backend" not in given and task != "image-text" and _VISION & facts.config.keys():
        found["backend"] = Finding("torch", "the model reads images beside texts, which only torch serves")
    if facts.card.license is not None:
        found["license"] = Finding(facts.card.license, "README.md")
    elif "license" not in given:
        open_.append("license: README.md names none; add it to the table, and read it before you serve the model")
    guesses = [f"{key}: {one.value} is a guess from {one.evidence}" for key, one in found.items() if one.is_guess]
    return Inspection({key: one for key, one in found.items() if key not in given}, (*guesses, *open_))


@dataclass(frozen=True, slots=True)
class _Facts:
    """The files of a folder that describe a model; what is missing is empty."""

    name: str
    config: Mapping[str, Any]
    has_modules: bool
    modules: tuple[str, ...]
    """The names of the classes that modules.json lists, without their packages."""
    router: Mapping[str, Any]
    """The file of the first Router among them: its routes, and the classes of their modules."""
    module_configs: tuple[Mapping[str, Any], ...]
    """The config.json of each of `modules`, except the transformer's own."""
    settings: Mapping[str, Any]
    """config_sentence_transformers.json."""
    stanford: Mapping[str, Any]
    """artifact.metadata."""
    card: Card

    @property
    def architecture(self) -> str:
        """The class that the weights were saved from, or an empty text."""
        named = self.config.get("architectures")
        return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""

    @property
    def routed(self) -> tuple[str, ...]:
        """The names of the classes in the routes of a Router."""
        types = self.router.get("types")
        return tuple(map(_class, types.values())) if isinstance(types, dict) else ()

    @property
    def routes(self) -> tuple[str, ...]:
        """The routes of a Router, the default one first."""
        structure, parameters = self.router.get("structure"), self.router.get("parameters")
        default = parameters.get("default_route") if isinstance(parameters, dict) else None
        return tuple(sorted(structure, key=lambda route: route != default)) if isinstance(structure, dict) else ()

    @property
    def is_reranker(self) -> bool:
        """Whether its card says so."""
        return self.card.pipeline == "text-ranking" or bool(self.card.tags & _RERANKERS)

    def refuse(self, reason: str) -> SourceError:
        """The error to raise where no task serves it."""
        return SourceError(f"[{self.name}] source: {reason}")


def _read(name: str, folder: Path) -> _Facts:
    modules = _load(name, folder / "modules.json")
    listed = [one for one in modules if isinstance(one, dict)] if isinstance(modules, list) else []
    paths = [str(one.get("path") or "") for one in listed]
    kinds = tuple(_class(one.get("type")) for one in listed)
    first = paths[0] if paths and untrusted.is_inside(paths[0]) else ""
    config = _object(name, folder / "config.json") or _object(name, folder / first / "config.json")
    if not config and not listed and (folder / "adapter_config.json").exists():
        raise SourceError(
            f"[{name}] source: {folder} holds an adapter without its base; merge both and save the result as a model"
        )
    if not config and not listed:
        raise SourceError(f"[{name}] source: {folder} holds no config.json and no modules.json")
    return _Facts(
        name=name,
        config=config,
        has_modules=bool(listed),
        modules=kinds,
        module_configs=tuple(
            _object(name, folder / path / "config.json") if path and untrusted.is_inside(path) else {} for path in paths
        ),
        router=next(
            (_router(name, folder / path) for path, kind in zip(paths, kinds, strict=True) if kind == "Router"), {}
        ),
        settings=_object(name, folder / "config_sentence_transformers.json"),
        stanford=_object(name, folder / "artifact.metadata"),
        card=card.read(folder),
    )


def _class(path: object) -> str:
    """The name of a class without its package."""
    return str(path or "").rpartition(".")[2]


def _router(name: str, folder: Path) -> Mapping[str, Any]:
    return _object(name, folder / "router_config.json") or _object(name, folder / "config.json")


def _load(name: str, file: Path) -> object:
    if not file.is_file():
        return {}
    if file.stat().st_size > MOST_BYTES:
        raise SourceError(f"[{name}] source: {file.name} is larger than {MOST_BYTES >> 20} MiB")
    try:
        return json.loads(file.read_text())
    except (ValueError, RecursionError) as exc:
        raise SourceError(f"[{name}] source: {file.name} is not JSON: {exc}") from exc


def _object(name: str, file: Path) -> Mapping[str, Any]:
    content = _load(name, file)
    return content if isinstance(content, dict) else {}


def _task(facts: _Facts) -> Finding:
    """The task of a model.

    Raises:
        SourceError: there is none for it.
    """
    if "SparseAutoEncoder" in facts.modules:
        raise facts.refuse("it makes sparse vectors of dense ones (SparseAutoEncoder), which is not supported")
    return _saved_as(facts) or _of_images(facts) or _built_as(facts)


def _saved_as(facts: _Facts) -> Finding | None:
    """The task according to files of sentence-transformers, PyLate or Stanford's ColBERT."""
    if "query_maxlen" in facts.stanford:
        return Finding("multi-vector", "artifact.metadata of Stanford's ColBERT")
    if "query_length" in facts.settings:
        return Finding("multi-vector", "query_length in config_sentence_transformers.json")
    model_type = facts.settings.get("model_type")
    if isinstance(model_type, str) and model_type in _MODEL_TYPES:
        return Finding(_MODEL_TYPES[model_type], f"model_type {model_type}, modules {_modules(facts)}")
    for module, task in _MODULES.items():
        if module in facts.modules or module in facts.routed:
            return Finding(task, f"modules {_modules(facts)}")
    return None


def _modules(facts: _Facts) -> str:
    """The modules in order, a pooling with its mode."""
    shown = []
    for module, settings in zip(facts.modules, facts.module_configs, strict=True):
        modes = settings.get("pooling_mode") or [
            key.removeprefix("pooling_mode_") for key, on in settings.items() if key.startswith("pooling_mode_") and on
        ]
        shown.append(
            f"{module} ({modes if isinstance(modes, str) else ' and '.join(map(str, modes))})" if modes else module
        )
    return ", ".join(shown)


def _of_images(facts: _Facts) -> Finding | None:
    """The task of a model that takes images.

    Raises:
        SourceError: there is none for it, or its files do not say which.
    """
    model_type = facts.config.get("model_type")
    if facts.architecture.endswith("ForRetrieval"):
        return Finding("multi-vector", facts.architecture)
    if model_type in IMAGE_TEXT:
        return Finding("image-text", f"model_type {model_type}")
    if model_type in TOGETHER:
        return _together(facts)
    if any(key in facts.config for key in ("vision_config", "audio_config", "image_size", "num_channels")):
        raise facts.refuse(
            f"a model of type {model_type!r} takes images or audio; only {', '.join((*IMAGE_TEXT, *TOGETHER))} are"
            " supported"
        )
    return None


def _built_as(facts: _Facts) -> Finding:
    """The task according to the class that saved the weights and, if that is not enough, to the card."""
    if facts.card.tags & _SPARSE_TAGS:
        if not facts.architecture.endswith("ForMaskedLM"):
            raise facts.refuse(
                f"its card says that it makes sparse vectors, but {facts.architecture or 'its model'} is no masked"
                " language model, and modules.json names no modules"
            )
        return Finding("sparse", f"{facts.architecture}, and the tags of README.md", is_guess=True)
    if facts.card.tags & _LATE:
        return Finding("multi-vector", "the tags of README.md", is_guess=True)
    kind = facts.architecture
    for suffixes, decide in (
        (("ForSequenceClassification",), _classifier),
        (("ForCausalLM", "LMHeadModel"), _decoder),
        (("ForMaskedLM", "ForPreTraining", "ForTextEncoding"), _encoder),
    ):
        if kind.endswith(suffixes):
            return decide(facts)
    if re.search("For[A-Z]", kind):
        raise facts.refuse(f"{kind} does not fit any of the tasks {', '.join(get_args(Task))}")
    return _encoder(facts)


def _together(facts: _Facts) -> Finding:
    """The task of a model that reads texts and images together, whose class is that of the model it was trained from.

    Raises:
        SourceError: its card does not say either.
    """
    kind = facts.architecture or f"model_type {facts.config.get('model_type')}"
    if facts.is_reranker:
        raise facts.refuse(f"{kind} as a reranker {LOGIT_SCORE}")
    if facts.card.pipeline in _EMBEDDERS:
        return Finding("text-embedding", f"{kind}, pipeline_tag {facts.card.pipeline}")
    raise SourceError(
        f"[{facts.name}] task: set --task text-embedding if it embeds texts and images: there is no modules.json, and"
        f" neither {kind} nor README.md says what it is for"
    )


def _classifier(facts: _Facts) -> Finding:
    """The task of a classifier: one class is a score, and several are labels unless the card says that it ranks.

    A score may be of a pair or of a text alone, as where it was trained for regression.
    """
    count = _classes(facts)
    evidence = f"{facts.architecture} with {count} class{'es' if count > 1 else ''}"
    if count == 1 or facts.is_reranker:
        is_regression = facts.config.get("problem_type") == "regression"
        return Finding("cross-encoder", evidence, is_guess=is_regression and not facts.is_reranker)
    return Finding("classification", evidence, is_guess=facts.card.pipeline not in _CLASSIFIERS)


def _decoder(facts: _Facts) -> Finding:
    if facts.is_reranker:
        return Finding("cross-encoder", f"{facts.architecture}, and README.md says that it ranks")
    if facts.card.pipeline not in _EMBEDDERS:
        raise facts.refuse(
            f"{facts.architecture} generates text, and README.md does not describe an embedding model or a reranker"
        )
    return _encoder(facts)


def _encoder(facts: _Facts) -> Finding:
    kind = facts.architecture or f"model_type {facts.config.get('model_type')}"
    if facts.card.pipeline in _EMBEDDERS:
        return Finding("text-embedding", f"{kind}, pipeline_tag {facts.card.pipeline}")
    return Finding("text-embedding", f"{kind} in config.json", is_guess=True)


def _classes(facts: _Facts) -> int:
    """The number of classes of a classifier; transformers' default is two."""
    labels = facts.config.get("id2label")
    count = len(labels) if isinstance(labels, dict) else facts.config.get("num_labels")
    return count if isinstance(count, int) else 2


def _check_classes(facts: _Facts, given: Mapping[str, object]) -> None:
    """Ask for the class that means relevant: labels such as LABEL_1 or entailment do not say so."""
    if not facts.architecture.endswith("ForSequenceClassification") or _classes(facts) == 1:
        return
    if "positive_class" not in given:
        labels = facts.config.get("id2label")
        labels = labels if isinstance(labels, dict) else {i: f"LABEL_{i}" for i in range(_classes(facts))}
        raise SourceError(
            f"[{facts.name}] positive_class: set --positive-class to the label that means relevant, one of"
            f" {', '.join(map(str, labels.values()))}; or set --task classification to serve all of them"
        )


def _embedding(facts: _Facts, given: Mapping[str, object], open_: list[str]) -> dict[str, Finding]:
    """Pooling, prompts and dimensions."""
    found = {}
    if not facts.has_modules and "pooling" not in given:
        found["pooling"] = _pooling(facts)
    own = facts.settings.get("prompts")
    if facts.card.prompts and not (isinstance(own, dict) and any(own.values())):
        found["prompts"] = Finding(facts.card.prompts, "the examples of README.md", is_guess=True)
    sizes = _dimensions(facts)
    if sizes is not None:
        found["dimensions"] = sizes
    elif facts.card.is_matryoshka:
        open_.append(
            "dimensions: README.md speaks of Matryoshka, but lists no sizes; add those that it was trained for"
        )
    return found


def _pooling(facts: _Facts) -> Finding:
    """The pooling according to the card, or the usual one of decoders.

    Raises:
        SourceError: neither says.
    """
    poolings = facts.card.poolings
    if len(poolings) == 1:
        return Finding(poolings[0], "the text of README.md", is_guess=True)
    if not poolings and _is_decoder(facts):
        return Finding("lasttoken", f"{facts.architecture}, a decoder", is_guess=True)
    reason = f"README.md speaks of {' and '.join(poolings)}" if poolings else "README.md does not say it"
    raise SourceError(
        f"[{facts.name}] pooling: set --pooling to one of {', '.join(get_args(Pooling))}: there is no"
        f" modules.json, and {reason}"
    )


def _is_decoder(facts: _Facts) -> bool:
    """Whether transformers has a causal and no masked language model of its type."""
    from transformers.models.auto.modeling_auto import (  # noqa: PLC0415 - it takes seconds
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    model_type = str(facts.config.get("model_type"))
    both_ways = facts.config.get("is_causal") is False or facts.config.get("use_bidirectional_attention")
    return (
        model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        and not both_ways
    )


def _dimensions(facts: _Facts) -> Finding | None:
    """The sizes of a Matryoshka model that are below its own."""
    own = facts.config.get("matryoshka_dimensions") or facts.config.get("matryoshka_dims")
    evidence = "config.json" if own else "README.md"
    sizes = own if isinstance(own, list) else facts.card.dimensions
    width = _width(facts)
    kept = sorted({size for size in sizes if type(size) is int and 0 < size < (width or 0)}, reverse=True)
    return Finding(kept, f"Matryoshka sizes of {evidence}") if kept else None


def _width(facts: _Facts) -> int | None:
    """The number of output dimensions, if the files state it."""
    keys = ("out_features", "embedding_dimension", "word_embedding_dimension")
    widths = [settings[key] for settings in facts.module_configs for key in keys if key in settings]
    width = facts.settings.get("truncate_dim") or (widths or [facts.config.get("hidden_size")])[-1]
    return width if isinstance(width, int) else None
