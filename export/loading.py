"""How weights are read: in fp32, from files on this machine, without running code of their author unless allowed."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, PretrainedConfig
from transformers.utils import logging

from export.errors import SourceError
from export.manifest import ModelSpec

Model = Any
"""A model or tokenizer or processor of transformers, whose types say little of what each kind has."""
UNREADABLE = (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError, AttributeError, SafetensorError)
"""What transformers and torch raise for files that are missing, broken or do not fit each other."""
OPTIONS: dict[str, Any] = {"dtype": torch.float32}


@contextmanager
def loading(spec: ModelSpec, key: str = "source") -> Iterator[None]:
    """Turn what transformers raises for files that it cannot read into a SourceError that names the table's key."""
    logging.set_verbosity_error()  # type: ignore[no-untyped-call] # it lists the weights of heads that are not asked for
    logging.disable_progress_bar()  # type: ignore[no-untyped-call] # the export shows its own
    try:
        yield
    except UNREADABLE as exc:
        if "trust_remote_code" in str(exc):
            raise SourceError(
                f"[{spec.name}] {key}: it comes with code of its own, which runs only with allow_remote_code = true"
            ) from exc
        reason = str(exc).strip().partition("\n")[0]
        raise SourceError(f"[{spec.name}] {key}: cannot be loaded: {type(exc).__name__}: {reason}") from exc


def load_model(spec: ModelSpec, kind: Model, folder: Path, key: str = "source") -> Model:
    """A transformers model in eval mode, by one of transformers' auto classes.

    Raises:
        SourceError: it cannot be loaded, or weights that it needs are missing.
    """
    with loading(spec, key), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, report = kind.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=spec.allow_remote_code,
            use_safetensors=None if spec.allow_pickle else True,
            output_loading_info=True,
            **OPTIONS,
        )
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))  # of no use here
    if missing:
        raise SourceError(f"[{spec.name}] {key}: weights are missing: {', '.join(missing[:3])}")
    return model.eval().requires_grad_(requires_grad=False)


def load_tokenizer(spec: ModelSpec, folder: Path) -> Model:
    """A folder's tokenizer.

    Raises:
        SourceError: it cannot be loaded.
    """
    with loading(spec):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=spec.allow_remote_code)


def architecture(config: PretrainedConfig) -> str:
    """The class that a model was saved from, such as BertForSequenceClassification."""
    return (config.architectures or [""])[0]
