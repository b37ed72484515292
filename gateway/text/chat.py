"""How a model's chat template puts texts and images into a row."""

from msgspec import Struct

from gateway.text.tokenizer import INSTRUCTION

CONTENT, PATCHES = "{content}", "{patches}"
"""Placeholders: the texts and images of an item, and the placeholders of an image's merged patches."""


class Chat(Struct, frozen=True, kw_only=True):
    """The parameter `chat` of an entry. The texts contain all special tokens of a row: a tokenizer adds none to it."""

    text: str = ""
    """The row of an item, with CONTENT and perhaps INSTRUCTION. For embedding models."""
    query: str = ""
    document: str = ""
    """The same by the side of a search, for late-interaction models."""
    document_text: str = ""
    """The same for a document that is a text, if it is not read as an image is. A document is then one or the other."""
    instruction: str = ""
    """What stands for INSTRUCTION if neither the request nor the prompt has one."""
    image: str = ""
    """What stands for an image, with PATCHES. Empty if the model takes only texts."""
    patch: str = ""
    """The text of the token that stands for one merged patch."""

    def __post_init__(self) -> None:
        for name in ("text", "query", "document", "document_text"):
            text: str = getattr(self, name)
            if text and (text.count(CONTENT) != 1 or text.count(INSTRUCTION) > 1):
                raise ValueError(f"{name} must contain {CONTENT} exactly once and {INSTRUCTION} at most once")
        if self.image and (self.image.count(PATCHES) != 1 or not self.patch):
            raise ValueError(f"image must contain {PATCHES} exactly once, and patch must not be empty")

    def takes_instruction(self, *, is_query: bool) -> bool:
        """Whether the template has a place for an instruction, on this side if it distinguishes the two."""
        return INSTRUCTION in (self.text or (self.query if is_query else self.document))

    @property
    def ends(self) -> tuple[str, str]:
        """The beginning and the end of every row of an embedding model; empty where they are a client's."""
        first = min(self.text.find(mark) for mark in (CONTENT, INSTRUCTION) if mark in self.text) if self.text else 0
        return self.text[:first], self.text.rpartition(CONTENT)[2].rpartition(INSTRUCTION)[2]

    def around(self, *, is_query: bool, prompt: str, has_images: bool = True) -> tuple[str, str]:
        """The text before and after the content of an item.

        Args:
            is_query: whether the item is a query, for models that distinguish queries and documents.
            prompt: the instruction, or a prompt of the model; before the content if the template has no place for it.
            has_images: whether the item has images.
        """
        document = self.document if has_images else self.document_text or self.document
        template = self.text or (self.query if is_query else document)
        before, after = template.split(CONTENT)
        if INSTRUCTION not in template:
            return before + prompt, after
        instruction = prompt or self.instruction
        return before.replace(INSTRUCTION, instruction), after.replace(INSTRUCTION, instruction)
