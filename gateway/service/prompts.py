"""Chooses the variant and the prompt of a model, and inserts an instruction.

Clients name a variant or a prompt directly, or the purpose of the texts in the vocabulary of any vendor.
"""

from dataclasses import replace

from gateway.catalog import Model, TextModel
from gateway.errors import InvalidRequest, quoted
from gateway.service import tokens
from gateway.text.chat import Chat
from gateway.text.tokenizer import INSTRUCTION

MAX_INSTRUCTION = 4096
"""Maximum length of an instruction in characters; real ones are a sentence or two."""
SIDES: tuple[tuple[str, ...], ...] = (
    ("query", "search_query", "retrieval.query", "question", "retrieval_query"),
    ("document", "passage", "search_document", "retrieval.passage", "corpus", "retrieval_passage"),
)
"""Purposes of the two sides of a search."""
PURPOSES = (
    *SIDES,
    ("classification",),
    ("clustering", "separation"),
    ("text-matching", "sts", "similarity", "text_matching"),
)
"""Synonyms of each purpose: the names of sentence-transformers first, then those of Cohere's input_type, Jina's task,
NIM's and Voyage's input_type, and model cards."""
FIELD = "instruction"
"""The field of requests that holds an instruction."""
SUFFIXES = ("-query", "-passage")
"""NIM's suffixes of model names, for clients that can set only the model."""


def is_query(purpose: str | None) -> bool:
    """Whether texts of this purpose are queries."""
    return purpose in SIDES[0]


def for_purpose(model: Model, purpose: str | None) -> Model:
    """The model with its text model for a purpose: the matching variant, or the default.

    A variant named "retrieval" is for queries and documents; its prompts distinguish them.
    """
    names = next((names for names in PURPOSES if purpose in names), ())
    for name in (purpose or "", *names, *(name.partition(".")[0] for name in names)):
        if name in model.variants:
            return replace(model, text=model.variants[name])
    return model


def instruct(text_model: TextModel, prompt: str, instruction: str | None) -> str:
    """The prompt with this instruction instead of its own; the unchanged prompt if it is None.

    Raises:
        InvalidRequest: the prompt does not support an instruction.
    """
    if instruction is None:
        return prompt
    if prompt not in text_model.instructed:
        where = f" with its prompt {prompt!r}" if text_model.instructed else ""
        raise InvalidRequest(f"model {text_model.name!r} does not support instruction{where}", param=FIELD)
    return text_model.instructed[prompt].replace(INSTRUCTION, instruction)


def choose(text_model: TextModel, purpose: str | None, place: str, instruction: str | None = None) -> str:
    """Choose the prompt to put before texts.

    If the model has no prompt for a purpose, its default prompt is used. For the sides of a search none is used, as in
    sentence-transformers' encode_query and encode_document: the default may be that of the other side. Without a
    purpose, an instruction is for queries, unless the default prompt supports it.

    Args:
        text_model: the model with the prompts.
        purpose: the name of a prompt or a variant, or one of PURPOSES; None for the default.
        place: the field that holds the purpose.
        instruction: replaces the instruction in the prompt.

    Raises:
        InvalidRequest: the purpose is unknown, or the prompt does not support an instruction.
    """
    if text_model.chat is not None:
        return _instruction(text_model, text_model.chat, purpose, place, instruction)
    if purpose is None and instruction is not None and text_model.default_prompt not in text_model.instructed:
        purpose = "query"
    return instruct(text_model, _prompt(text_model, purpose, place), instruction)


def _instruction(text_model: TextModel, chat: Chat, purpose: str | None, place: str, instruction: str | None) -> str:
    """The instruction for a chat template: the request's, else the prompt, which is empty for the template's own."""
    prompt = _prompt(text_model, purpose, place)
    if instruction is None:
        return prompt
    if not chat.takes_instruction(is_query=is_query(purpose)):
        raise InvalidRequest(f"model {text_model.name!r} does not support instruction", param=FIELD)
    tokens.check_control(text_model, instruction, FIELD)
    return instruction


def _prompt(text_model: TextModel, purpose: str | None, place: str) -> str:
    if purpose is None:
        return text_model.default_prompt
    if purpose in text_model.prompts:
        return text_model.prompts[purpose]
    for names in PURPOSES:
        if purpose in names:
            default = "" if names in SIDES else text_model.default_prompt
            return next((text_model.prompts[name] for name in names if name in text_model.prompts), default)
    if purpose in text_model.variants:
        return text_model.default_prompt
    known = ", ".join(
        dict.fromkeys([*text_model.variants, *text_model.prompts, *(name for names in PURPOSES for name in names)])
    )
    raise InvalidRequest(f"unknown {place} {quoted(purpose)}; model {text_model.name!r} accepts: {known}", param=place)
