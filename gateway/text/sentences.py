"""Finds the sentences of a text."""
# ruff: noqa: RUF001 - punctuation of many scripts

import re
from collections.abc import Iterator

END = re.compile(
    r"""(?P<mark>[.…!?。．｡！？؟۔।॥]+)[\])}"'”’»）」』】〉》]*(?P<space>\s*)"""  # a sentence's end
    r"|\n[^\S\n]*\n\s*"  # a paragraph's end
)
BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
FULL_STOPS = frozenset(".…．")
"""They also end abbreviations."""
CONTINUATIONS = frozenset(",;:-–—、，；：")


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each sentence, in characters, without spaces around it.

    By the default rules of Unicode (UAX 29, SB6 to SB11), with one exception: only a blank line ends a paragraph, since
    lines are often wrapped. In short: a sentence ends after a mark, unless the text goes on in lower case or with
    a comma. The rules know no abbreviations.
    """
    for start, end in _pieces(text):
        span = _trimmed(text, start, end)
        if span[0] < span[1]:
            yield span


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for end in END.finditer(text):
        if end["mark"] and not BLANK_LINE.search(end["space"]) and _goes_on(text, end):
            continue
        yield start, end.end()
        start = end.end()
    yield start, len(text)


def _goes_on(text: str, end: re.Match[str]) -> bool:
    """Whether the sentence goes on behind a mark."""
    following = text[end.end() : end.end() + 1]
    if following in CONTINUATIONS:
        return True
    return FULL_STOPS.issuperset(end["mark"]) and (following.islower() or (following.isalnum() and not end["space"]))


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    return start, start + len(piece.strip())
