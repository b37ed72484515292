"""Text to token ids, in Rust, without the interpreter's lock."""

import json
import logging
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msgspec import Struct
from tokenizers import AddedToken, Encoding, Tokenizer

from gateway import files
from gateway.errors import TokenizerFailed
from gateway.text.panics import panics_as

log = logging.getLogger(__name__)

MAX_BYTES = 64 * 2**20
"""Of a tokenizer.json: those of the largest vocabularies have 35 MB."""
Truncate = Literal["none", "start", "end"]
"""Which end of a text that is too long is left out; with none it is an error."""
QUERY, INSTRUCTION, BORDER = "{query}", "{instruction}", "{|}"
"""Where a template takes the query and the instruction, and where no token crosses."""
PLACES = re.compile("|".join(map(re.escape, (QUERY, INSTRUCTION))))


@dataclass(frozen=True, slots=True)
class Template:
    """The text of a row around query and document, for models that were made to complete text."""

    prefix: str
    """With QUERY in it; the document follows directly."""
    suffix: str
    instructed: "Template | None" = None
    """The same with a place for an INSTRUCTION, before the document or behind it; None where there is none."""

    @property
    def text(self) -> str:
        """All of it but the document."""
        return self.prefix + self.suffix


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around every document of a call, where query and document make one row.

    A row is `before`, the ids of `text`, the document and `tail` as one string, and `after`, if `tail` is empty.
    """

    before: list[int]
    text: str
    tail: str
    after: list[int]
    """The ids behind the document; of `tail`, where that is not empty."""
    head_length: int
    """How many ids of a row stand in front of the document: `before` and those of `text`."""
    first_length: int
    """How many of these are of the first segment: their segment id is 0."""

    @property
    def length(self) -> int:
        """How many ids of a row are not the document's."""
        return self.head_length + len(self.after)


class Piece(Struct, frozen=True, gc=False):
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
        """Load a tokenizer.json.

        Raises:
            OSError: it cannot be read, is no regular file, or is larger than MAX_BYTES.
            Exception: it is no tokenizer.
        """
        content, _ = files.read(path, MAX_BYTES)
        tokenizer = Tokenizer.from_str(content.decode())  # from_buffer would keep all other threads waiting meanwhile
        return TextTokenizer(tokenizer) if template is None else TemplateTokenizer(tokenizer, template)

    def encode(self, texts: Sequence[str], frame: Frame | None = None) -> list[list[int]]:
        """Token ids of each text, special tokens included, or of the row that it makes in a frame.

        Raises:
            TokenizerFailed: the tokenizer does.
        """
        with _failing():
            return self._encode(texts, frame)

    def pieces(self, text: str, *, special: bool) -> list[Piece]:
        """The tokens of a text as parts of it, with or without the special ones.

        Raises:
            TokenizerFailed: the tokenizer does.
        """
        with _failing():
            (encoding,) = self._tokenizer.encode_batch([text], add_special_tokens=special)
        found = zip(encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True)
        return [
            Piece(id_, token, is_special == 1, *((None, None) if is_special else offsets))
            for id_, token, is_special, offsets in found
        ]

    @property
    def takes_instruction(self) -> bool:
        """Whether a frame has a place for an instruction."""
        return False

    def frame(self, query: str, instruction: str | None = None) -> Frame:
        """What stands around every document when it is read together with the query.

        Args:
            query: a text.
            instruction: in place of the model's own, where it takes one.

        Raises:
            TokenizerFailed: the tokenizer does.
        """
        with _failing():
            return self._frame(query, instruction)

    def _encode(self, texts: Sequence[str], frame: Frame | None) -> list[list[int]]:
        if frame is None:
            return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        whole = [frame.text + text + frame.tail for text in texts]
        encodings = self._tokenizer.encode_batch_fast(whole, add_special_tokens=False)
        after = [] if frame.tail else frame.after
        return [frame.before + self._ids(encoding) + after for encoding in encodings]

    def _frame(self, query: str, instruction: str | None) -> Frame:  # noqa: ARG002 - there is no place for one
        # With any document for the second segment, the tokenizer shows what it puts around all of them.
        (pair,) = self._tokenizer.encode_batch([(query, "a")])  # which gives up the lock, as `encode` does not
        segments = pair.sequence_ids  # None for special tokens
        start, end = segments.index(1), len(segments) - segments[::-1].index(1)
        return Frame(pair.ids[:start], "", "", pair.ids[end:], start, pair.type_ids[:start].count(0))

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
        behind = ids[len(ids) - len(self.behind) :] if frame is None else frame.after
        return ids[: limit - len(behind)] + behind


@contextmanager
def _failing() -> Iterator[None]:
    """Make one error of whatever a tokenizer fails with, such as a regular expression that takes too long on a text."""
    try:
        with panics_as(RuntimeError):
            yield
    except Exception as exc:
        log.error("a tokenizer failed: %s", type(exc).__name__)  # noqa: TRY400 - its message may quote the text
        raise TokenizerFailed("the model's tokenizer failed on this text") from exc


def _special_in(tokenizer: Tokenizer, text: str) -> Tokenizer:
    """A tokenizer to which all added tokens of a text are special, as Qwen3's <think> is not by itself."""
    content = json.loads(tokenizer.to_str())
    for token in content["added_tokens"]:
        token["special"] |= token["content"] in text
    return Tokenizer.from_str(json.dumps(content))


class TemplateTokenizer(TextTokenizer):
    """The tokenizer of a model whose rows are a template. A client's text never becomes a special token in them.

    Prefix, query, document and suffix are tokenised as one string, since tokens cross their borders, with special
    tokens switched off. The template's own go by aliases meanwhile, which are random and thus nothing that a client can
    write. So does BORDER, which is no token of the model's.
    """

    def __init__(self, tokenizer: Tokenizer, template: Template) -> None:
        """Wrap a copy of a tokenizer.

        Raises:
            ValueError: the template has not one place for each, or the model spells special tokens out of plain text,
                as one with a vocabulary of whole words may.
        """
        written = template.text + (template.instructed.text if template.instructed else "")
        tokenizer = _special_in(tokenizer, written)
        super().__init__(tokenizer)
        _check_places(template, {QUERY: 1, INSTRUCTION: 0})
        if template.instructed is not None:
            _check_places(template.instructed, {QUERY: 1, INSTRUCTION: 1})
        self._aliases: dict[str, str] = {}
        self._original: dict[int, tuple[int, ...]] = {}
        special = [(id_, token) for id_, token in tokenizer.get_added_tokens_decoder().items() if token.special]
        for id_, token in sorted(special, key=lambda item: -len(item[1].content)):  # one may hold another
            if token.content in written:
                self._alias(token.content, (id_,), lstrip=token.lstrip, rstrip=token.rstrip)
        if BORDER in written:
            self._alias(BORDER, ())
        self._template = self._aliased(template)
        self._instructed = self._aliased(template.instructed) if template.instructed else None
        tokenizer.encode_special_tokens = True
        for id_, token in special:
            if id_ in tokenizer.encode(token.content, add_special_tokens=False).ids:
                raise ValueError(f"plain text can become the special token {token.content!r}")

    @property
    def takes_instruction(self) -> bool:
        """Whether the template has a place for an instruction."""
        return self._instructed is not None

    def _alias(self, written: str, ids: tuple[int, ...], **strip: bool) -> None:
        alias = secrets.token_hex(16)
        self._tokenizer.add_tokens([AddedToken(alias, normalized=False, **strip)])
        (made,) = self._tokenizer.encode(alias, add_special_tokens=False).ids
        self._original[made] = ids
        self._aliases[written] = alias

    def _aliased(self, template: Template) -> Template:
        """The template with aliases for what they stand for, longer ones first."""
        prefix, suffix = template.prefix, template.suffix
        for written, alias in self._aliases.items():
            prefix, suffix = prefix.replace(written, alias), suffix.replace(written, alias)
        return Template(prefix, suffix)

    def _frame(self, query: str, instruction: str | None) -> Frame:
        template = self._template if instruction is None or self._instructed is None else self._instructed
        given = {QUERY: query, INSTRUCTION: instruction or ""}
        # At once: what a client writes is never taken for a place.
        text, tail = (PLACES.sub(lambda place: given[place[0]], part) for part in (template.prefix, template.suffix))
        head, after = map(self._ids, self._tokenizer.encode_batch_fast([text, tail], add_special_tokens=False))
        return Frame([], text, tail, after, len(head), len(head))

    def _ids(self, encoding: Encoding) -> list[int]:
        return [id_ for found in encoding.ids for id_ in self._original.get(found, (found,))]


def _check_places(template: Template, counts: Mapping[str, int]) -> None:
    """Raise ValueError where a template has not so many places for each; that for the query is in its prefix."""
    for place, count in counts.items():
        found = (template.prefix if place == QUERY else template.text).count(place)
        if found != count:
            raise ValueError(f"the template contains {place} {found} times instead of {count}")
