"""Which variant of a model texts go to, which of its prompts goes in front of them, and an instruction in it.


Either is named by its own name, or by what the field calls the purpose of the texts.
"""

from dataclasses import replace

from gateway.catalog import Model, TextModel
from gateway.errors import InvalidRequest, quoted
from gateway.text.tokenizer import INSTRUCTION

MAX_INSTRUCTION = 4096
"""Characters of an instruction; real ones are a sentence or two."""
SIDES: tuple[tuple[str, ...], ...] = (
    ("query", "search_query", "retrieval.query", "question", "retrieval_query"),
    ("document", "passage", "search_document", "retrieval.passage", "corpus", "retrieval_passage"),
)
"""Names of the two sides of a search."""
PURPOSES = (
    *SIDES,
    ("classification",),
    ("clustering", "separation"),
    ("text-matching", "sts", "similarity", "text_matching"),
)
"""Names of one purpose: those of sentence-transformers first, then Cohere's input_type, Jina's task, NIM's and Voyage's
input_type, and what model cards use."""
FIELD = "instruction"
"""What requests call it."""
SUFFIXES = ("-query", "-passage")
"""Of a model's name, as NIM has them, for clients that can choose nothing but the model."""


def for_purpose(model: Model, purpose: str | None) -> Model:
    """A model whose text model is its variant for texts of a purpose, or else its default one.

    "retrieval" may be one variant for queries and documents, which its prompts tell apart.
    """
    names = next((names for names in PURPOSES if purpose in names), ())
    for name in (purpose or "", *names, *(name.partition(".")[0] for name in names)):
        if name in model.variants:
            return replace(model, text=model.variants[name])
    return model


def instruct(text_model: TextModel, prompt: str, instruction: str | None) -> str:
    """A prompt with an instruction in place of the model's own, or as it is without one.

    Raises:
        InvalidRequest: there is an instruction, and the prompt has no place for it.
    """
    if instruction is None:
        return prompt
    if prompt not in text_model.instructed:
        where = f" with its prompt {prompt!r}" if text_model.instructed else ""
        raise InvalidRequest(f"model {text_model.name!r} does not support instruction{where}", param=FIELD)
    return text_model.instructed[prompt].replace(INSTRUCTION, instruction)


def choose(text_model: TextModel, purpose: str | None, place: str, instruction: str | None = None) -> str:
    """What to put in front of texts that are not token ids.

    A model that has no prompt for a purpose gets its default one; but a side of a search gets none, as in
    sentence-transformers' encode_query and encode_document: the default may be the other side's. An instruction is for
    queries, if no purpose is named.

    Args:
        text_model: whose prompts.
        purpose: the name of one of its prompts, or one of PURPOSES; None for its default.
        place: the field that says so.
        instruction: in place of the one that the prompt has.

    Raises:
        InvalidRequest: it is neither, or the prompt has no place for an instruction.
    """
    if purpose is None and instruction is not None and text_model.default_prompt not in text_model.instructed:
        purpose = "query"
    return instruct(text_model, _prompt(text_model, purpose, place), instruction)


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
    known = ", ".join([*text_model.variants, *text_model.prompts, *(name for names in PURPOSES for name in names)])
    raise InvalidRequest(f"unknown {place} {quoted(purpose)}; model {text_model.name!r} accepts: {known}", param=place)
