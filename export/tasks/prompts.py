"""The parameters of an entry that name a model's prompts."""

import json
import re
from collections.abc import Mapping

INSTRUCT = re.compile(r"(?P<before>Instruct: ?)\S(?:[^\n]*\S)?(?P<behind>\s*\nQuery: ?)")
"""The form of prompts that have a place for an instruction: first E5's (Wang et al. 2024, arXiv 2401.00368, section
3.1), then Qwen3-Embedding's and many others'."""


def parameters(prompts: Mapping[str, str], default: str | None) -> dict[str, str]:
    """The parameters that name prompts, those of them that take an instruction, and the default one.

    Args:
        prompts: by name.
        default: the name of one of them.
    """
    named = {name: text for name, text in prompts.items() if text}
    instructed = {name: f"{found['before']}{{instruction}}{found['behind']}" for name, found in _instructed(named)}
    told = {
        "prompts": _json(named),
        "default_prompt": default if default is not None and default in named else "",
    }
    return told | ({"instructed_prompts": _json(instructed)} if instructed else {})


def _instructed(prompts: Mapping[str, str]) -> list[tuple[str, re.Match[str]]]:
    matches = ((name, INSTRUCT.fullmatch(text)) for name, text in prompts.items())
    return [(name, found) for name, found in matches if found is not None]


def _json(values: Mapping[str, str]) -> str:
    return json.dumps(values, ensure_ascii=False) if values else ""
