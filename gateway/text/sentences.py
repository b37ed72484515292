"""Finds the sentences of a text."""
# ruff: noqa: RUF001 - punctuation of many scripts

import re
from collections.abc import Iterator

END = re.compile(
    r"""(?P<mark>[.…!?。．｡！？؟۔।॥]+)[\])}"'”’»）」』】〉》]*(?P<space>\s*)"""  # a sentence's end
    r"|\n[^\S\n]*\n\s*"  # a paragraph's end
)
FULL_STOPS = frozenset(".…．")
"""They also end abbreviations."""
CONTINUATIONS = frozenset(",;:-–—、，；：")


def sentences(text: str) -> list[tuple[int, int]]:
    """Start and end of each sentence, in characters, without spaces around it.

    By the default rules of Unicode (UAX 29, SB6 to SB11), with one exception: only a blank line ends a paragraph, since
    lines are often wrapped. In short: a sentence ends after a mark, unless the text goes on in lower case or with
    a comma. The rules know no abbreviations.
    """
    return [span for span in (_trimmed(text, start, end) for start, end in _pieces(text)) if span[0] < span[1]]


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for end in END.finditer(text):
        mark, following = end["mark"], text[end.end() : end.end() + 1]
        if mark and following in CONTINUATIONS:
            continue
        if mark and FULL_STOPS.issuperset(mark) and (following.islower() or (following.isalnum() and not end["space"])):
            continue
        yield start, end.end()
        start = end.end()
    yield start, len(text)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    return start, start + len(piece.strip())
