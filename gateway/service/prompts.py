"""Which of a model's prompts goes in front of texts: by its own name, or by what the field calls their purpose."""

from gateway.catalog import TextTower
from gateway.errors import InvalidRequest

PURPOSES: tuple[tuple[str, ...], ...] = (
    ("query", "search_query", "retrieval.query", "question"),
    ("document", "passage", "search_document", "retrieval.passage", "corpus"),
    ("classification",),
    ("clustering", "separation"),
    ("text-matching", "sts", "similarity"),
)
"""Names of one purpose: those of sentence-transformers first, then Cohere's input_type, Jina's task, NIM's and Voyage's
input_type, and what model cards use."""
SUFFIXES = ("-query", "-passage")
"""Of a model's name, as NIM has them, for clients that can choose nothing but the model."""


def choose(tower: TextTower, purpose: str | None, place: str) -> str:
    """What to put in front of texts that are not token ids.

    A model that has no prompt for a purpose gets its default one, as in sentence-transformers' encode_query.

    Args:
        tower: whose prompts.
        purpose: the name of one of its prompts, or one of PURPOSES; None for its default.
        place: the field that says so.

    Raises:
        InvalidRequest: it is neither.
    """
    if purpose is None:
        return tower.default_prompt
    if purpose in tower.prompts:
        return tower.prompts[purpose]
    for names in PURPOSES:
        if purpose in names:
            return next((tower.prompts[name] for name in names if name in tower.prompts), tower.default_prompt)
    known = ", ".join([*tower.prompts, *(name for names in PURPOSES for name in names)])
    raise InvalidRequest(f"{place} is {purpose!r}; model {tower.name!r} knows {known}", param=place)
