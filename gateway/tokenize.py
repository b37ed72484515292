"""Text to token ids, in Rust, outside the event loop when there is much of it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

INLINE_CHARACTERS = 4096
"""Up to about this much text, 1 ms of work, tokenising costs less than handing it to a thread."""


class TextTokenizer:
    """A model's tokenizer. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Wrap a tokenizer, whose padding and truncation are switched off."""
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        # How many special tokens stand at the end of every text, such as BERT's [SEP].
        mask = tokenizer.encode("a").special_tokens_mask
        self._suffix = mask[::-1].index(0) if 0 in mask else 0

    @classmethod
    def from_file(cls, path: Path) -> "TextTokenizer":
        """Load a tokenizer.json."""
        return cls(Tokenizer.from_buffer(path.read_bytes()))

    async def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included."""
        if sum(map(len, texts)) <= INLINE_CHARACTERS:
            return self._encode(texts)
        return await asyncio.to_thread(self._encode, texts)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def cut(self, ids: list[int], limit: int) -> list[int]:
        """Leave out the end of the text, not the special tokens behind it, where it is over `limit` tokens."""
        if len(ids) <= limit:
            return ids
        kept = limit - self._suffix
        return ids[:kept] + ids[len(ids) - self._suffix :]
