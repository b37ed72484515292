"""The token ids of words, for tokenizers that read each word on its own, as BERT's do."""

import re
from collections.abc import Iterable
from itertools import chain

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

MAX_WORDS = 2**15
"""Words that are remembered: 9 MiB of usual ones, at most 23. When there are more, all are forgotten."""
MAX_CHARACTERS = 2**16
"""Longer texts are not split into words: this holds the GIL, 1 to 10 ms for a text of this length."""
MAX_LETTERS = 24
"""Longer words are not remembered. Texts without spaces are words of any length here."""
SPLIT = re.compile(r"(?<![^\t\n\r ])[!-~]*+[^\t\n\r -~][^\t\n\r ]*+|[A-Za-z0-9]+|[!-/:-@\[-`{-~]")
"""A run without spaces in which a character is not printable ASCII, a plain word, or a punctuation mark.
BertPreTokenizer splits at least there, and BertNormalizer changes nothing across these borders. Runs are looked at from
their beginning only, or long ones would take quadratic time."""


def are_independent(tokenizer: Tokenizer) -> bool:
    """Whether the ids of a text are those of its words in SPLIT, unless it contains added tokens."""
    return (
        isinstance(tokenizer.normalizer, BertNormalizer)
        and isinstance(tokenizer.pre_tokenizer, BertPreTokenizer)
        and isinstance(tokenizer.model, WordPiece)
        and not any(token.normalized for token in tokenizer.get_added_tokens_decoder().values())
    )


class Words(dict[str, tuple[int, ...]]):
    """The ids of the words seen so far. Texts repeat their words: looking these up takes a sixth of the time of
    tokenizing them. New words take as long as before in ASCII, and up to three times as long otherwise. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer, most: int = MAX_WORDS) -> None:
        """Remember no words yet, and later at most this many, of a tokenizer for which `are_independent` holds."""
        super().__init__()
        self._most = most
        self._tokenizer = tokenizer
        self._model = tokenizer.model
        self._added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        self._is_uncased = tokenizer.normalizer.lowercase

    def ids(self, text: str) -> Iterable[int]:
        """The ids of a text, without special tokens around it."""
        if len(text) > MAX_CHARACTERS or any(token in text for token in self._added):
            return self._encode(text)
        return chain.from_iterable(map(self.__getitem__, SPLIT.findall(text)))

    def __missing__(self, word: str) -> tuple[int, ...]:
        """Tokenize a new word."""
        if word.isascii() and word.isprintable():
            pieces = self._model.tokenize(word.lower() if self._is_uncased else word)
            ids = tuple([piece.id for piece in pieces])
        else:
            ids = self._encode(word)
        if len(word) <= MAX_LETTERS:
            if len(self) >= self._most:
                self.clear()
            self[word] = ids
        return ids

    def _encode(self, text: str) -> tuple[int, ...]:
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)  # `encode` would hold the GIL
        return tuple(encoding.ids)
