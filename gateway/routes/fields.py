"""Request fields that several APIs share, and their combined meaning."""

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

from gateway.errors import InvalidRequest
from gateway.service.prompts import MAX_INSTRUCTION
from gateway.text.tokenizer import Truncate

MIN_TOKENS = 4
"""The fewest tokens that truncate_prompt_tokens may leave, so that some text is between the special tokens."""

Truncation = Literal["NONE", "START", "END"]
"""Which end of a text over the limit is cut off, as in the APIs of Cohere and NIM."""
TRUNCATIONS: Mapping[Truncation, Truncate] = {"NONE": "none", "START": "start", "END": "end"}

PromptTokens = Annotated[int, Meta(ge=-1)]
"""How many tokens of a text to keep, as in vLLM's API; see `resolve_truncation`."""
Side = Literal["left", "right"]
"""Which end of a text is cut off, as in vLLM's API."""

Instruction = Annotated[str, Meta(min_length=1, max_length=MAX_INSTRUCTION)]
"""The task that an instruction-tuned model is given in its prompt."""


class IgnoredFields(Struct, kw_only=True):
    """Fields of OpenAI and vLLM that are accepted, but change nothing."""

    user: str | None = None
    """Accepted but ignored, for clients of OpenAI."""
    priority: int | None = None
    """Accepted but ignored: scheduling is fair."""
    request_id: str | None = None
    """Accepted but ignored: the response has the id of the request's header x-request-id."""
    cache_salt: str | None = None
    """Accepted but ignored: there is no cache of prefixes."""


def wants_logits(raw_scores: bool | None, use_activation: bool | None) -> bool:
    """Whether scores are logits, according to either of two fields that say the opposite.

    Raises:
        InvalidRequest: they contradict each other.
    """
    if raw_scores is not None and raw_scores == use_activation:
        raise InvalidRequest("raw_scores and use_activation contradict each other; send only one", param="raw_scores")
    return raw_scores is True or use_activation is False


def read_truncation(
    truncate: bool | Truncation | None, prompt_tokens: int | None, side: Side | None
) -> tuple[Truncate, int | None]:
    """Combine the fields of a request whose texts are not truncated unless it says so; see `resolve_truncation`."""
    how: Truncate = TRUNCATIONS[truncate] if isinstance(truncate, str) else "end" if truncate else "none"
    return resolve_truncation(how, prompt_tokens, side, is_forbidden=truncate is False or truncate == "NONE")


def resolve_truncation(
    truncate: Truncate, prompt_tokens: int | None, side: Side | None, *, is_forbidden: bool
) -> tuple[Truncate, int | None]:
    """Combine truncate with truncate_prompt_tokens and truncation_side.

    Args:
        truncate: how to truncate, according to the other fields.
        prompt_tokens: truncate_prompt_tokens; -1 for the model's limit.
        side: truncation_side.
        is_forbidden: whether the request explicitly forbids truncation.

    Returns:
        How to truncate, and a limit in addition to the model's.

    Raises:
        InvalidRequest: the fields contradict each other, or truncate_prompt_tokens is too small.
    """
    if prompt_tokens is not None and is_forbidden:
        raise InvalidRequest(
            "truncate_prompt_tokens contradicts truncate, which forbids truncation; send only one of them",
            param="truncate_prompt_tokens",
        )
    if prompt_tokens is not None and 0 <= prompt_tokens < MIN_TOKENS:
        raise InvalidRequest(
            f"truncate_prompt_tokens is {prompt_tokens}; it must be {MIN_TOKENS} or more, or -1 for the model's limit",
            param="truncate_prompt_tokens",
        )
    if prompt_tokens is not None and truncate == "none":
        truncate = "end"
    if side is not None and truncate != "none":
        truncate = "start" if side == "left" else "end"
    return truncate, prompt_tokens if prompt_tokens != -1 else None
