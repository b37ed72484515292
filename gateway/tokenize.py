"""Text to token ids, in Rust, outside the event loop when there is much of it."""

import asyncio
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenizers import AddedToken, Encoding, Tokenizer

INLINE_CHARACTERS = 4096
"""Up to about this much text, 1 ms of work, tokenising costs less than handing it to a thread."""
Truncate = Literal["none", "start", "end"]
"""Which end of a text that is too long is left out; with none it is an error."""
QUERY = "{query}"
"""Where a template takes the query."""


@dataclass(frozen=True, slots=True)
class Template:
    """The text of a row around query and document, for models that were made to complete text."""

    prefix: str
    """With QUERY in it; the document follows directly."""
    suffix: str


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around every document of a call, where query and document make one row.

    A row is `before`, the ids of `text` and the document as one string, and `after`.
    """

    before: list[int]
    text: str
    after: list[int]
    head_length: int
    """How many ids of a row stand in front of the document: `before` and those of `text`."""
    first_length: int
    """How many of these are of the first segment: their segment id is 0."""

    @property
    def length(self) -> int:
        """How many ids of a row are not the document's."""
        return self.head_length + len(self.after)


@dataclass(frozen=True, slots=True)
class Piece:
    """A token, and where it stands in its text."""

    id: int
    text: str
    """As the vocabulary has it."""
    special: bool
    start: int | None
    """In characters; None for special tokens, which stand nowhere."""
    stop: int | None


class TextTokenizer:
    """A model's tokenizer. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Wrap a tokenizer, whose padding and truncation are switched off."""
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        any_text = tokenizer.encode("a")
        mask = any_text.special_tokens_mask
        before, behind = (mask.index(0), mask[::-1].index(0)) if 0 in mask else (0, 0)
        self.before: list[int] = any_text.ids[:before]
        """The special tokens in front of every text, such as BERT's [CLS]."""
        self.behind: list[int] = any_text.ids[len(mask) - behind :]
        """Those behind it, such as BERT's [SEP]."""

    @staticmethod
    def from_file(path: Path, template: Template | None = None) -> "TextTokenizer":
        """Load a tokenizer.json."""
        tokenizer = Tokenizer.from_buffer(path.read_bytes())
        return TextTokenizer(tokenizer) if template is None else TemplateTokenizer(tokenizer, template)

    async def encode(self, texts: Sequence[str], frame: Frame | None = None) -> list[list[int]]:
        """Token ids of each text, special tokens included, or of the row that it makes in a frame."""
        beside = len(frame.text) if frame is not None else 0
        if sum(map(len, texts)) + beside * len(texts) <= INLINE_CHARACTERS:
            return self._encode(texts, frame)
        return await asyncio.to_thread(self._encode, texts, frame)

    async def pieces(self, texts: Sequence[str], *, special: bool) -> list[list[Piece]]:
        """The tokens of each text as parts of it, with or without the special ones."""

        def make() -> list[list[Piece]]:
            encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=special)
            return [
                [
                    Piece(id_, token, is_special == 1, *((None, None) if is_special else offsets))
                    for id_, token, is_special, offsets in zip(
                        encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True
                    )
                ]
                for encoding in encodings
            ]

        return await asyncio.to_thread(make)

    async def frame(self, query: str) -> Frame:
        """What stands around every document when it is read together with the query."""
        if len(query) <= INLINE_CHARACTERS:
            return self._frame(query)
        return await asyncio.to_thread(self._frame, query)

    def _encode(self, texts: Sequence[str], frame: Frame | None) -> list[list[int]]:
        if frame is None:
            return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        whole = [frame.text + text for text in texts]
        encodings = self._tokenizer.encode_batch_fast(whole, add_special_tokens=False)
        return [frame.before + self._ids(encoding) + frame.after for encoding in encodings]

    def _frame(self, query: str) -> Frame:
        # With any document for the second segment, the tokenizer shows what it puts around all of them.
        pair = self._tokenizer.encode(query, "a")
        segments = pair.sequence_ids  # None for special tokens
        start, end = segments.index(1), len(segments) - segments[::-1].index(1)
        return Frame(pair.ids[:start], "", pair.ids[end:], start, pair.type_ids[:start].count(0))

    def _ids(self, encoding: Encoding) -> list[int]:
        ids: list[int] = encoding.ids
        return ids

    def cut(self, ids: list[int], limit: int, frame: Frame | None = None, end: Truncate = "end") -> list[int]:
        """Leave out one end of the text, not what stands around it, where it is over `limit` tokens."""
        if len(ids) <= limit:
            return ids
        if end == "start":
            before = len(self.before) if frame is None else frame.head_length
            return ids[:before] + ids[len(ids) - (limit - before) :]
        behind = len(self.behind) if frame is None else len(frame.after)
        return ids[: limit - behind] + ids[len(ids) - behind :]


def _special_in(tokenizer: Tokenizer, template: Template) -> Tokenizer:
    """A tokenizer to which all added tokens of the template are special, as Qwen3's <think> is not by itself."""
    content = json.loads(tokenizer.to_str())
    for token in content["added_tokens"]:
        token["special"] |= token["content"] in template.prefix + template.suffix
    return Tokenizer.from_str(json.dumps(content))


class TemplateTokenizer(TextTokenizer):
    """The tokenizer of a model whose rows are a template. A client's text never becomes a special token in them.

    Prefix, query and document are tokenised as one string, since tokens cross their borders, with special tokens
    switched off. The template's own go by aliases meanwhile, which are random and thus nothing that a client can write.
    """

    def __init__(self, tokenizer: Tokenizer, template: Template) -> None:
        """Wrap a copy of a tokenizer.

        Raises:
            ValueError: the template has no place for the query, or the model spells special tokens out of plain text,
                as one with a vocabulary of whole words may.
        """
        tokenizer = _special_in(tokenizer, template)
        super().__init__(tokenizer)
        if QUERY not in template.prefix:
            raise ValueError(f"the template's prefix has no {QUERY}")
        self._after: list[int] = tokenizer.encode(template.suffix, add_special_tokens=False).ids
        self._prefix = template.prefix
        self._original: dict[int, int] = {}
        special = [(id_, token) for id_, token in tokenizer.get_added_tokens_decoder().items() if token.special]
        for id_, token in sorted(special, key=lambda item: -len(item[1].content)):  # one may hold another
            if token.content in self._prefix:
                alias = secrets.token_hex(16)
                tokenizer.add_tokens([AddedToken(alias, lstrip=token.lstrip, rstrip=token.rstrip, normalized=False)])
                self._prefix = self._prefix.replace(token.content, alias)
                self._original[tokenizer.token_to_id(alias)] = id_
        tokenizer.encode_special_tokens = True
        for id_, token in special:
            if id_ in tokenizer.encode(token.content, add_special_tokens=False).ids:
                raise ValueError(f"plain text can become the special token {token.content!r}")

    def _frame(self, query: str) -> Frame:
        text = self._prefix.replace(QUERY, query, 1)
        head_length = len(self._tokenizer.encode(text, add_special_tokens=False))
        return Frame([], text, self._after, head_length, head_length)

    def _ids(self, encoding: Encoding) -> list[int]:
        return [self._original.get(id_, id_) for id_ in encoding.ids]
