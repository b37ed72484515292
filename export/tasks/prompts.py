"""The parameters of an entry that describe a model's prompts."""

import re
from collections.abc import Mapping

from export.errors import SourceError
from export.loading.models import Model
from export.manifest import ModelSpec
from export.runtime.contract import Parameters

INSTRUCT = re.compile(r"(?P<before>Instruct: ?)\S(?:[^\n]*\S)?(?P<behind>\s*\nQuery: ?)")
"""The form of prompts that have a place for an instruction: first E5's (Wang et al. 2024, arXiv 2401.00368, section
3.1), then Qwen3-Embedding's and many others'."""


def set_prompts(spec: ModelSpec, reference: Model) -> None:
    """Give a model of sentence-transformers the table's prompts.

    Raises:
        SourceError: it has its own.
    """
    if not spec.prompts:
        return
    if any(reference.prompts.values()):
        raise SourceError(f"[{spec.name}] prompts: the source has its own (config_sentence_transformers.json)")
    reference.prompts = dict(spec.prompts)


def prompts_of(spec: ModelSpec, reference: Model) -> Parameters:
    """The parameters for the prompts of a model of sentence-transformers.

    Raises:
        SourceError: a prompt is not a text.
    """
    named = {name: text for name, text in reference.prompts.items() if text}
    for name, text in named.items():
        if not isinstance(text, str):
            raise SourceError(f"[{spec.name}] source: its prompt {name} is {text!r}, but must be a text")
    return describe_prompts(named, reference.default_prompt_name)


def describe_prompts(prompts: Mapping[str, str], default: str | None) -> Parameters:
    """The parameters for prompts, for those of them that take an instruction, and for the default one.

    Args:
        prompts: by name.
        default: the name of one of them.
    """
    named = {name: text for name, text in prompts.items() if text}
    matches = {name: INSTRUCT.fullmatch(text) for name, text in named.items()}
    return {
        "prompts": named,
        "default_prompt": default if default is not None and default in named else "",
        "instructed_prompts": {
            name: f"{found['before']}{{instruction}}{found['behind']}"
            for name, found in matches.items()
            if found is not None
        },
    }
