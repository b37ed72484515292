"""Fields that several APIs have in their requests, and what they mean together."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from gateway.errors import InvalidRequest
from gateway.service.prompts import MAX_INSTRUCTION
from gateway.text.tokenizer import Truncate

MIN_TOKENS = 8
"""The fewest tokens that a text may be truncated to, so that something is left between the special tokens."""

Truncation = Literal["NONE", "START", "END"]
"""Which end of a text over the limit is cut off, in Cohere's and NIM's words."""
TRUNCATIONS: Mapping[Truncation, Truncate] = {"NONE": "none", "START": "start", "END": "end"}

PromptTokens = Annotated[int, msgspec.Meta(ge=-1)]
"""How many tokens of a text to keep, in vLLM's words; see `prompt_tokens`."""
Side = Literal["left", "right"]
"""Where a text is truncated, in vLLM's and TEI's words."""

Instruction = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_INSTRUCTION)]
"""What a model is told to do with texts."""


def prompt_tokens(
    asked: int | None, side: Side | None, truncate: Truncate, *, is_refused: bool
) -> tuple[Truncate, int | None]:
    """What truncate_prompt_tokens and truncation_side make of what is done with texts over the limit.

    Args:
        asked: how many tokens to keep; -1 are as many as the model takes.
        side: where to cut.
        truncate: what else is asked for.
        is_refused: whether it is said outright that nothing may be cut.

    Returns:
        What to do, and a limit beside the model's own.

    Raises:
        InvalidRequest: these contradict each other, or nothing of a text would be left.
    """
    if asked is not None and is_refused:
        raise InvalidRequest(
            "truncate_prompt_tokens cuts what truncate says must not be cut; send one of them",
            param="truncate_prompt_tokens",
        )
    if asked is not None and 0 <= asked < MIN_TOKENS:
        raise InvalidRequest(
            f"truncate_prompt_tokens is {asked}; it must be {MIN_TOKENS} or more, or -1 for the model's limit",
            param="truncate_prompt_tokens",
        )
    if asked is not None and truncate == "none":
        truncate = "end"
    if side is not None and truncate != "none":
        truncate = "start" if side == "left" else "end"
    return truncate, asked if asked != -1 else None
