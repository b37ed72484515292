"""Rows to compare a graph with its reference on: real text, at lengths from a few tokens to a model's limit."""

from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
from numpy.typing import NDArray

from export.runtime.engine import Ids, Row
from export.tower import Vocabulary

TEXTS = tuple(Path(__file__).with_name("samples.txt").read_text().splitlines())
LENGTHS = (3, 4, 6, 9, 14, 22, 35, 56, 90, 145, 233, 377, 700, 1500, 3000, 6000)
"""Tokens of the rows that are compared, as far as the model takes them; its limit is always one."""


def manual() -> list[str]:
    """The paragraphs of Python's manual: half a million characters that are wherever Python is."""
    return [" ".join(text.split()) for topic in topics.values() for text in topic.split("\n\n")]


def lengths(vocabulary: Vocabulary) -> list[int]:
    """The lengths to compare at."""
    return [*(length for length in LENGTHS if length < vocabulary.max_tokens), vocabulary.max_tokens]


def text(start: int, characters: int) -> str:
    """Real text of about this many characters."""
    joined = " ".join(TEXTS[start % len(TEXTS) :] + TEXTS[: start % len(TEXTS)])
    return (joined * (characters // len(joined) + 1))[:characters]


def ids(vocabulary: Vocabulary, start: int, length: int) -> Ids:
    """A row of real text cut to `length` tokens, special tokens included."""
    found: list[int] = []
    characters = length
    while len(found) < length:
        characters *= 2
        found = vocabulary.tokenizer.encode(text(start, characters)).ids
    return np.array([*found[: length - 1], found[-1]], np.int64)


def single_rows(vocabulary: Vocabulary) -> list[Row]:
    """One run of token ids a row."""
    return [(ids(vocabulary, i, length),) for i, length in enumerate(lengths(vocabulary))]


def paired_rows(vocabulary: Vocabulary, most_of_query: int | None = None) -> list[Row]:
    """Every document length under short, medium and long queries; queries repeat, as they do in rerank.

    A long query has `most_of_query` tokens, or half of the model's limit.
    """
    wanted = lengths(vocabulary)
    most = most_of_query or vocabulary.max_tokens // 2
    queries = [ids(vocabulary, i, length) for i, length in enumerate((min(5, most), min(12, most), most))]
    return [(query, ids(vocabulary, i + 3, length)) for query in queries for i, length in enumerate(wanted)]


def images(height: int, width: int) -> list[NDArray[np.uint8]]:
    """Images of noise, of one colour and of gradients: uint8 [3, H, W] each."""
    noise = np.random.default_rng(0).integers(0, 256, (5, 3, height, width), np.uint8)
    plain = [np.full((3, height, width), value, np.uint8) for value in (0, 128, 255)]
    ramp = np.linspace(0, 255, height * width).astype(np.uint8).reshape(height, width)
    return [*noise, *plain, np.stack([ramp, ramp.T.reshape(height, width), 255 - ramp])]
