"""Turns text into token ids."""

import json
import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msgspec import Struct
from tokenizers import AddedToken, Tokenizer

from gateway import files
from gateway.errors import TokenizerFailed
from gateway.text.panics import panics_as
from gateway.text.words import Words, are_independent

log = logging.getLogger(__name__)

MAX_BYTES = 64 * 2**20
"""Maximum size of a tokenizer.json. The largest known have 35 MB."""
Truncate = Literal["none", "start", "end"]
"""The end at which texts over the limit are truncated; with "none" they are an error."""
QUERY, INSTRUCTION, BORDER = "{query}", "{instruction}", "{|}"
"""Placeholders of a template: the query, the instruction, and a border that no token crosses."""


@dataclass(frozen=True, slots=True)
class Template:
    """The prompt of a generative reranker: the text around the query and the document."""

    prefix: str
    """Contains QUERY; the document follows directly."""
    suffix: str
    instructed: "Template | None" = None
    """The same template with the placeholder INSTRUCTION, before or after the document; None without instructions."""

    @property
    def text(self) -> str:
        """All of the template except the document."""
        return self.prefix + self.suffix


@dataclass(frozen=True, slots=True)
class PairFrame:
    """The part of a query-document pair that is the same for every document.

    A row is `before`, the ids of `text`, document and `tail` as one string, and `after` if `tail` is empty.
    """

    before: list[int]
    text: str
    tail: str
    after: list[int]
    """The ids after the document: those of `tail`, if it is not empty."""
    head_length: int
    """Number of ids before the document: `before` and those of `text`."""
    first_length: int
    """Number of these ids in the first segment (segment id 0)."""
    where: str = " with this query"
    """Why there is less room for a text, in error messages."""

    @property
    def length(self) -> int:
        """Number of ids in a row that are not the document's."""
        return self.head_length + len(self.after)


BARE = PairFrame([], "", "", [], 0, 0, "")
"""The frame of texts without special tokens."""


class TokenSpan(Struct, frozen=True, gc=False):
    """A token and its position in the text, as TEI reports it."""

    id: int
    text: str
    """The token as in the vocabulary."""
    special: bool
    start: int | None
    """In characters; None for special tokens."""
    stop: int | None


@dataclass(frozen=True, slots=True)
class LocatedRow:
    """A row whose ids are known by the part of the text that they stand for."""

    head: list[int]
    """Ids before the text: special tokens and prompt, or those of a frame."""
    ids: list[int]
    """Ids of the text, or those that are kept of them."""
    tail: list[int]
    """Ids after the text."""
    spans: list[tuple[int, int]]
    """Start and end of each of `ids`, in characters of the text."""
    total: int
    """The number of the text's ids, including those that are not kept."""


class TextTokenizer:
    """A model's tokenizer. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Wrap a tokenizer. Its padding and truncation are disabled."""
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._original: dict[int, tuple[int, ...]] = {}
        """The model's ids of each id that is only this tokenizer's."""
        added = tokenizer.get_added_tokens_decoder().values()
        self._special = [token.content for token in added if token.special and token.content.strip()]
        (any_text,) = tokenizer.encode_batch(["a"])  # `encode` would hold the GIL meanwhile
        mask = any_text.special_tokens_mask
        before, behind = (mask.index(0), mask[::-1].index(0)) if 0 in mask else (0, 0)
        self.before: list[int] = any_text.ids[:before]
        """Ids of the special tokens before every text, such as BERT's [CLS]."""
        self.behind: list[int] = any_text.ids[len(mask) - behind :]
        """Ids of the special tokens after every text, such as BERT's [SEP]."""

    @staticmethod
    def from_file(path: Path, template: Template | None = None, trusted: str = "") -> "TextTokenizer":
        """Load a tokenizer.json.

        Args:
            path: the file.
            template: of a generative reranker.
            trusted: text whose tokens stand for images in rows. They become special, and words are not looked up.

        Raises:
            OSError: the file cannot be read, is not a regular file, or is larger than MAX_BYTES.
            Exception: the file is not a tokenizer.
        """
        content, _ = files.read(path, MAX_BYTES)
        tokenizer = Tokenizer.from_str(content.decode())  # from_buffer would hold the GIL meanwhile
        if template is not None:
            return TemplateTokenizer(tokenizer, template, trusted)
        if trusted and any(_is_lax(token, trusted) for token in tokenizer.get_added_tokens_decoder().values()):
            tokenizer = _special_in(tokenizer, trusted)
        return WordTokenizer(tokenizer) if not trusted and are_independent(tokenizer) else TextTokenizer(tokenizer)

    def encode(self, texts: Sequence[str], frame: PairFrame | None = None) -> list[list[int]]:
        """Token ids of each text with special tokens, or of its row in a frame.

        Raises:
            TokenizerFailed: the tokenizer raised an error.
        """
        with _failing():
            return self._encode(texts, frame)

    def decode(self, rows: Sequence[Sequence[int]], *, skip_special: bool) -> list[str]:
        """The text of each row of token ids. Ids outside the model's vocabulary are left out.

        Raises:
            TokenizerFailed: the tokenizer raised an error.
        """
        with _failing():
            # The texts of a template's aliases are secret.
            known = [[id_ for id_ in row if id_ not in self._original] for row in rows]
            return self._tokenizer.decode_batch(known, skip_special_tokens=skip_special)

    def token_spans(self, text: str, *, special: bool) -> list[TokenSpan]:
        """The tokens of a text with their positions, with or without special tokens.

        Raises:
            TokenizerFailed: the tokenizer raised an error.
        """
        with _failing():
            (encoding,) = self._tokenizer.encode_batch([text], add_special_tokens=special)
        found = zip(encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True)
        return [
            TokenSpan(id_, token, True, None, None) if is_special else TokenSpan(id_, token, False, *offsets)
            for id_, token, is_special, offsets in found
        ]

    def encode_pairs(
        self, pairs: Sequence[tuple[str, str]], limit: int, end: Truncate = "end"
    ) -> list[tuple[list[int], int]]:
        """The row of each pair of texts, and how many of its ids are in the first segment (segment id 0).

        With an empty second text, it is the row of the first alone, as by the tokenizers of transformers.

        Raises:
            TokenizerFailed: the tokenizer raised an error.
        """
        with _failing():
            encodings = self._tokenizer.encode_batch([pair if pair[1] else pair[0] for pair in pairs])
        rows = []
        for pair in encodings:
            kept = _kept(pair.sequence_ids, limit, end)
            ids, types = pair.ids, pair.type_ids
            rows.append(([ids[i] for i in kept], sum(types[i] == 0 for i in kept)))
        return rows

    def locate(
        self,
        text: str,
        *,
        prompt: str = "",
        frame: PairFrame | None = None,
        limit: int | None = None,
        end: Truncate = "end",
    ) -> LocatedRow:
        """The row of a text with special tokens, or in a frame, with the position of each id.

        Args:
            text: any text.
            prompt: put before the text.
            frame: instead of special tokens and prompt.
            limit: how many of the text's ids to keep at most. Positions are only read of these.
            end: the end at which others are dropped; with "none", as with "end".

        Raises:
            TokenizerFailed: the tokenizer raised an error.
        """
        before, after = (prompt, "") if frame is None else (frame.text, frame.tail)
        with _failing():
            (encoding,) = self._tokenizer.encode_batch([before + text + after], add_special_tokens=frame is None)
        ids = encoding.ids

        def span(index: int) -> tuple[int, int]:  # `offsets` would hold the GIL for all tokens
            return encoding.token_to_chars(index) or (0, 0)

        start, stop = (len(self.before), len(ids) - len(self.behind)) if frame is None else (0, len(ids))
        while before and start < stop and (span(start)[1] <= len(before) or ids[start] in self._original):
            start += 1
        behind = len(before) + len(text)
        while after and start < stop and (span(stop - 1)[1] > behind or ids[stop - 1] in self._original):
            stop -= 1
        head, tail = self._ids(ids[:start]), self._ids(ids[stop:])
        total = stop - start
        if limit is not None and total > limit:
            start, stop = (stop - limit, stop) if end == "start" else (start, start + limit)
        return LocatedRow(
            head if frame is None else frame.before + head,
            ids[start:stop],
            tail if frame is None or frame.tail else frame.after,
            [
                (max(first, len(before)) - len(before), min(last, behind) - len(before))
                for first, last in map(span, range(start, stop))
            ],
            total,
        )

    @property
    def takes_instruction(self) -> bool:
        """Whether `frame` supports an instruction."""
        return False

    def around_pair(
        self,
        instruction: str | None = None,  # noqa: ARG002 - not supported
    ) -> tuple[str, str, str]:
        """The texts before the query of a row, between query and document, and behind the document.

        They are written as by `trusted`.

        Raises:
            ValueError: the model has no template.
        """
        raise ValueError("the model has no template")

    def frame(self, query: str, instruction: str | None = None) -> PairFrame:
        """The frame of all documents for a query.

        Args:
            query: the text of the query.
            instruction: replaces the model's own instruction; ignored unless `takes_instruction`.

        Raises:
            TokenizerFailed: the tokenizer raised an error.
        """
        with _failing():
            return self._frame(query, instruction)

    def control_token(self, text: str) -> str | None:
        """The special token in a client's text that would end or change a template, if there is one."""
        return next((token for token in self._special if token in text), None)

    def trusted(self, text: str) -> str:
        """How to write a text of the model's, such as what stands for an image, so that its special tokens count."""
        return text

    def encode_trusted(self, text: str) -> list[int]:
        """Token ids of a text of the model's, without special tokens around it.

        Raises:
            TokenizerFailed: the tokenizer raised an error.
        """
        with _failing():
            (encoding,) = self._tokenizer.encode_batch_fast([self.trusted(text)], add_special_tokens=False)
        return self._ids(encoding.ids)

    def frame_around(self, before: str, after: str) -> PairFrame:
        """The frame of texts between two texts, in which special tokens are written as by `trusted`.

        Raises:
            TokenizerFailed: the tokenizer raised an error.
        """
        with _failing():
            encodings = self._tokenizer.encode_batch_fast([before, after], add_special_tokens=False)
        head, tail = (self._ids(encoding.ids) for encoding in encodings)
        return PairFrame([], before, after, tail, len(head), len(head), " with its template")

    def _encode(self, texts: Sequence[str], frame: PairFrame | None) -> list[list[int]]:
        if frame is None:
            return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        whole = [frame.text + text + frame.tail for text in texts]
        encodings = self._tokenizer.encode_batch_fast(whole, add_special_tokens=False)
        after = [] if frame.tail else frame.after
        return [frame.before + self._ids(encoding.ids) + after for encoding in encodings]

    def _frame(self, query: str, instruction: str | None) -> PairFrame:  # noqa: ARG002 - not supported
        # Any document will do to see what the tokenizer puts around it.
        (pair,) = self._tokenizer.encode_batch([(query, "a")])  # `encode` would hold the GIL
        segments = pair.sequence_ids  # None for special tokens
        start, end = segments.index(1), len(segments) - segments[::-1].index(1)
        return PairFrame(pair.ids[:start], "", "", pair.ids[end:], start, pair.type_ids[:start].count(0))

    def _ids(self, ids: list[int]) -> list[int]:
        """The model's ids for those of this tokenizer."""
        return ids

    def truncate(self, ids: list[int], limit: int, frame: PairFrame | None = None, end: Truncate = "end") -> list[int]:
        """Truncate a row to `limit` ids at one end of its text; the special tokens or the frame stay."""
        if len(ids) <= limit:
            return ids
        if end == "start":
            before = len(self.before) if frame is None else frame.head_length
            return ids[:before] + ids[len(ids) - (limit - before) :]
        behind = ids[len(ids) - len(self.behind) :] if frame is None else frame.after
        return ids[: limit - len(behind)] + behind


def _kept(sequences: Sequence[int | None], limit: int, end: Truncate) -> Sequence[int]:
    """The indices of a pair's ids that are left when it is truncated.

    As by the strategy `longest_first` of Hugging Face's tokenizers: the longer text is cut down to what the other one
    leaves, or both to the same length.

    Args:
        sequences: 0 for the ids of the first text, 1 for those of the second, None for special tokens.
        limit: how many are left at most.
        end: the end at which both texts are truncated; with "none", nothing is removed.
    """
    everything = range(len(sequences))
    if end == "none" or len(sequences) <= limit:
        return everything
    texts = [[i for i in everything if sequences[i] == side] for side in (0, 1)]
    room = max(0, limit - len(sequences) + sum(map(len, texts)))
    shorter, longer = sorted(texts, key=len)
    short = min(len(shorter), room // 2)
    removed: set[int] = set()
    for text, length in ((shorter, short), (longer, room - short)):
        removed.update(text[: len(text) - length] if end == "start" else text[length:])
    return [i for i in everything if i not in removed]


@contextmanager
def _failing() -> Iterator[None]:
    """Raise TokenizerFailed for any error of a tokenizer, such as a regular expression that takes too long."""
    try:
        with panics_as(RuntimeError):
            yield
    except Exception as exc:
        log.error("a tokenizer failed: %s", type(exc).__name__)  # noqa: TRY400 - the message may quote the text
        raise TokenizerFailed("the model's tokenizer failed on this text") from exc


class WordTokenizer(TextTokenizer):
    """A tokenizer that looks words up, one for which `words.are_independent` holds."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self._words = Words(tokenizer)

    def _encode(self, texts: Sequence[str], frame: PairFrame | None) -> list[list[int]]:
        before, after = (self.before, self.behind) if frame is None else (frame.before, frame.after)
        return [[*before, *self._words.ids(text), *after] for text in texts]


def _is_lax(token: AddedToken, text: str) -> bool:
    """Whether `_special_in` changes an added token. The copy takes a second for the largest tokenizers."""
    return token.normalized if token.special else token.content in text


def _special_in(tokenizer: Tokenizer, text: str) -> Tokenizer:
    """Copy a tokenizer, and make all added tokens in a text special, such as Qwen3's <think>, which is not.

    Special tokens are found only where they are written as they are: a normalizer could make one of other letters.
    """
    content = json.loads(tokenizer.to_str())
    for token in content["added_tokens"]:
        token["special"] |= token["content"] in text
        token["normalized"] &= not token["special"]
    return Tokenizer.from_str(json.dumps(content))


class TemplateTokenizer(TextTokenizer):
    """The tokenizer of a generative reranker. No text from a client becomes a special token of the template.

    Prefix, query, document and suffix are tokenized as one string, because tokens may span them, with special tokens
    disabled. The special tokens of the template are replaced by random aliases, which clients cannot guess, and so is
    BORDER, which is not a token of the model.
    """

    def __init__(self, tokenizer: Tokenizer, template: Template, trusted: str = "") -> None:
        """Wrap a copy of a tokenizer.

        Args:
            tokenizer: any tokenizer.
            template: where the texts of a pair go.
            trusted: other text whose special tokens may be in a row.

        Raises:
            ValueError: a placeholder does not occur exactly once in the template, or plain text can become a special
                token, as in a vocabulary of whole words.
        """
        written = template.text + (template.instructed.text if template.instructed else "") + trusted
        tokenizer = _special_in(tokenizer, written)
        super().__init__(tokenizer)
        _check_placeholders(template, {QUERY: 1, INSTRUCTION: 0})
        if template.instructed is not None:
            _check_placeholders(template.instructed, {QUERY: 1, INSTRUCTION: 1})
        self._aliases: dict[str, str] = {}
        special = [(id_, token) for id_, token in tokenizer.get_added_tokens_decoder().items() if token.special]
        for id_, token in sorted(
            special, key=lambda item: -len(item[1].content)
        ):  # longest first: one may contain another
            if token.content in written:
                self._alias(token.content, (id_,), lstrip=token.lstrip, rstrip=token.rstrip)
        if BORDER in written:
            self._alias(BORDER, ())
        self._template = self._aliased(template)
        self._instructed = self._aliased(template.instructed) if template.instructed else None
        tokenizer.encode_special_tokens = True
        # `encode` would hold the GIL meanwhile
        plain = tokenizer.encode_batch([token.content for _, token in special], add_special_tokens=False)
        for (id_, token), encoding in zip(special, plain, strict=True):
            if id_ in encoding.ids:
                raise ValueError(f"plain text can become the special token {token.content!r}")

    @property
    def takes_instruction(self) -> bool:
        """Whether the template has the placeholder INSTRUCTION."""
        return self._instructed is not None

    def _alias(self, written: str, ids: tuple[int, ...], **strip: bool) -> None:
        alias = secrets.token_hex(16)
        self._tokenizer.add_tokens([AddedToken(alias, normalized=False, **strip)])
        (encoding,) = self._tokenizer.encode_batch([alias], add_special_tokens=False)
        (made,) = encoding.ids
        self._original[made] = ids
        self._aliases[written] = alias

    def _aliased(self, template: Template) -> Template:
        """The template with its special tokens replaced by their aliases, longer tokens first."""
        return Template(self.trusted(template.prefix), self.trusted(template.suffix))

    def trusted(self, text: str) -> str:
        """A text with its special tokens replaced by their aliases."""
        for written, alias in self._aliases.items():
            text = text.replace(written, alias)
        return text

    def around_pair(self, instruction: str | None = None) -> tuple[str, str, str]:
        """The texts before the query of a row, between query and document, and behind the document."""
        template = self._template if instruction is None or self._instructed is None else self._instructed
        parts = (*template.prefix.split(QUERY), template.suffix)
        before, between, behind = (part.replace(INSTRUCTION, instruction or "") for part in parts)
        return before, between, behind

    def _frame(self, query: str, instruction: str | None) -> PairFrame:
        before, between, tail = self.around_pair(instruction)
        text = before + query + between
        encodings = self._tokenizer.encode_batch_fast([text, tail], add_special_tokens=False)
        head, after = (self._ids(encoding.ids) for encoding in encodings)
        return PairFrame([], text, tail, after, len(head), len(head))

    def _ids(self, ids: list[int]) -> list[int]:
        return [id_ for found in ids for id_ in self._original.get(found, (found,))]


def _check_placeholders(template: Template, counts: Mapping[str, int]) -> None:
    """Raise ValueError unless each placeholder occurs this often; QUERY counts only in the prefix."""
    for placeholder, count in counts.items():
        found = (template.prefix if placeholder == QUERY else template.text).count(placeholder)
        if found != count:
            raise ValueError(f"the template contains {placeholder} {found} times instead of {count}")
