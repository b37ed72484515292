"""Reads weights in fp32 from local files. Code of their author runs only where the table allows it."""

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Transformer
from transformers import AutoImageProcessor, AutoTokenizer, PretrainedConfig
from transformers.utils import logging

import export.loading.processors  # noqa: F401 - which leaves out videos
from export.errors import SourceError
from export.loading.faithful import changed_module, changed_settings, dropped, unread_weights
from export.loading.versions import HERE, newer, read
from export.manifest import ModelSpec

Model = Any
"""A model or tokenizer or processor of transformers, whose types say little of what each kind has."""
UNREADABLE = (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError, AttributeError, SafetensorError)
"""The exceptions that transformers and torch raise for files that are missing, broken or inconsistent."""
TRANSFORMERS = f"transformers {HERE['transformers']}"
SENTENCE_TRANSFORMERS = f"sentence-transformers {HERE['sentence_transformers']}"


@contextmanager
def loading(spec: ModelSpec, key: str = "source", folder: Path | None = None) -> Iterator[None]:
    """Turn what transformers raises for files that it cannot read into a SourceError that names the table's key.

    Args:
        spec: the model's table.
        key: the key of the source in it.
        folder: the folder of the files; if newer libraries saved it, the error says so.
    """
    logging.set_verbosity_error()  # type: ignore[no-untyped-call] # it lists the weights of heads that are not asked for
    logging.disable_progress_bar()  # type: ignore[no-untyped-call] # the export shows its own
    try:
        yield
    except UNREADABLE as exc:
        if "trust_remote_code" in str(exc):
            raise SourceError(
                f"[{spec.name}] {key}: it needs its own code, which runs only with allow_remote_code = true"
            ) from exc
        reason = str(exc).strip().partition("\n")[0]
        raise SourceError(
            f"[{spec.name}] {key}: cannot be loaded: {type(exc).__name__}: {reason}{newer(folder) if folder else ''}"
        ) from exc


def model_options(spec: ModelSpec) -> dict[str, Any]:
    """Options for transformers: fp32 weights, from safetensors unless the table allows pickles."""
    return {"dtype": torch.float32, "use_safetensors": None if spec.allow_pickle else True}


def read_settings(spec: ModelSpec, folder: Path) -> dict[str, Any]:
    """The content of config_sentence_transformers.json; empty if there is none.

    Raises:
        SourceError: it is not a JSON object.
    """
    file = folder / "config_sentence_transformers.json"
    with loading(spec, folder=folder):
        return dict(json.loads(file.read_text())) if file.is_file() else {}


def load_model(spec: ModelSpec, kind: Model, folder: Path, key: str = "source", own: Sequence[str] = ()) -> Model:
    """A transformers model in eval mode, by one of transformers' auto classes.

    Args:
        spec: the model's table.
        kind: the class.
        folder: a transformers folder.
        key: the key of the table, for errors.
        own: prefixes of weights in the folder that are not the model's, and that the caller reads.

    Raises:
        SourceError: it cannot be loaded, weights that it needs are missing, or the folder has weights or settings
            that it does not compute with.
    """
    with loading(spec, key, folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, report = kind.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=spec.allow_remote_code,
            output_loading_info=True,
            **model_options(spec),
        )
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))  # of no use here
    _check(spec, key, folder, "weights are missing", missing)
    unread = unread_weights(name for name in report["unexpected_keys"] if not name.startswith(tuple(own)))
    _check(spec, key, folder, f"has weights that {TRANSFORMERS} does not read", unread)
    _check(
        spec,
        key,
        folder,
        f"has settings that {TRANSFORMERS} does not read",
        dropped(folder, model),
    )
    return model.eval().requires_grad_(requires_grad=False)


def load_tokenizer(spec: ModelSpec, folder: Path) -> Model:
    """A folder's tokenizer, which may differ from its tokenizer.json: transformers builds many from their class.

    Raises:
        SourceError: it cannot be loaded.
    """
    with loading(spec, folder=folder):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=spec.allow_remote_code)


def load_processor(spec: ModelSpec, folder: Path, key: str = "source") -> Model:
    """A folder's image processor.

    Raises:
        SourceError: it cannot be loaded, or does not do what its file says.
    """
    with loading(spec, key, folder):
        processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            folder, local_files_only=True, use_fast=False, trust_remote_code=spec.allow_remote_code
        )
    _check(
        spec, key, folder, f"has image settings that {TRANSFORMERS} does not read", changed_settings(folder, processor)
    )
    return processor


def check_module(spec: ModelSpec, module: Model, folder: Path, own: Sequence[str] = ()) -> None:
    """Check a module of sentence-transformers: a transformer as `load_model` does, layers by what their file says.

    sentence-transformers makes up weights that are missing. Its dense layers and normalizations leave out what they do
    not know; its other modules refuse that.

    Raises:
        SourceError: weights are missing, or the folder has weights or settings that the module does not compute with.
    """
    if isinstance(module, Transformer):
        load_model(spec, type(module.model), folder, own=own)
    elif isinstance(module, Dense | Normalize):
        settings = [f"{folder.name}: {one}" for one in changed_module(read(folder / "config.json"), module)]
        _check(spec, "source", folder.parent, f"has settings that {SENTENCE_TRANSFORMERS} does not read", settings)


def _check(spec: ModelSpec, key: str, folder: Path, fault: str, what: Sequence[str]) -> None:
    if what:
        raise SourceError(f"[{spec.name}] {key}: {fault}: {', '.join(what[:3])}{newer(folder)}")


def architecture(config: PretrainedConfig) -> str:
    """The class that a model was saved from, such as BertForSequenceClassification."""
    return (config.architectures or [""])[0]
