"""A source's model card: README.md with YAML in front, as the hub has them. Hints for people, read as hints."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.manifest import Pooling

MOST_BYTES = 4 * 2**20
"""A longer card is not read."""

_POOLINGS: Mapping[Pooling, str] = {
    "cls": r"cls[-_ ]?(token[-_ ])?pool|pooling_mode_cls_token'?: True|pooling_mode'?: 'cls'|last_hidden_state\[:, 0",
    "lasttoken": r"last[-_ ]?token[-_ ]?pool|pooling_mode_lasttoken'?: True|pooling_mode'?: 'lasttoken'",
    "mean": r"(mean|average|avg)[-_ ]?pool|pooling_mode_mean_tokens'?: True|pooling_mode'?: 'mean'",
}
"""The forms in which cards name a pooling: in words, in code, and as sentence-transformers prints its modules."""
_DIMENSIONS = re.compile(r"matryoshka_dim(?:s|ensions)\W{1,5}\[([\d,\s]+)\]")
_PROMPTS = (("query: ", "passage: "), ("search_query: ", "search_document: "), ("query: ", "document: "))
"""Prefixes of queries and of documents, that cards put into the texts of their examples."""


@dataclass(frozen=True, slots=True)
class Card:
    """The facts that a model card states."""

    license: str | None = None
    """The identifier of the license, as the hub spells it, or the name of a license without one."""
    pipeline: str | None = None
    """The hub's task, such as text-ranking."""
    tags: frozenset[str] = frozenset()
    """The card's tags, in lower case."""
    text: str = ""
    """The whole card."""

    @property
    def poolings(self) -> tuple[Pooling, ...]:
        """The poolings that it speaks of."""
        return tuple(name for name, words in _POOLINGS.items() if re.search(words, self.text, re.IGNORECASE))

    @property
    def is_matryoshka(self) -> bool:
        """Whether it speaks of training at several sizes, other than in the further reading of every card."""
        return bool(re.search(r"matryoshka(?! embedding models\]|\))", self.text, re.IGNORECASE))

    @property
    def dimensions(self) -> tuple[int, ...]:
        """The sizes that it says a Matryoshka loss was computed at, the largest first."""
        lists = _DIMENSIONS.findall(self.text)
        return tuple(sorted({int(size) for one in lists for size in re.findall(r"\d{1,6}", one)}, reverse=True))

    @property
    def prompts(self) -> dict[str, str]:
        """The prefixes that texts of its examples begin with, by purpose."""
        for query, document in _PROMPTS:
            if all(re.search(rf"[\"'`]{re.escape(prefix.rstrip())}", self.text) for prefix in (query, document)):
                return {"query": query, "document": document}
        return {}


def read(folder: Path) -> Card:
    """Read a folder's card; one that is missing, too long or broken says nothing."""
    # Imported here: it takes a second, and only a model that is added needs it.
    from huggingface_hub.repocard import metadata_load  # noqa: PLC0415
    from yaml import YAMLError  # noqa: PLC0415

    file = folder / "README.md"
    if not file.is_file() or file.stat().st_size > MOST_BYTES:
        return Card()
    text = file.read_text(errors="replace")
    try:
        data: dict[str, Any] = metadata_load(file) or {}
    except (YAMLError, ValueError, RecursionError):
        data = {}
    tags = data.get("tags")
    return Card(
        license=_license(data),
        pipeline=_word(data.get("pipeline_tag")),
        tags=frozenset(tag.lower() for tag in (tags if isinstance(tags, list) else [tags]) if isinstance(tag, str)),
        text=text,
    )


def _license(data: Mapping[str, Any]) -> str | None:
    value = data.get("license")
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return _word(data.get("license_name") if value == "other" else value)


def _word(value: object) -> str | None:
    """A short printable text, or nothing."""
    return value if isinstance(value, str) and value.isprintable() and 0 < len(value) <= 100 else None
