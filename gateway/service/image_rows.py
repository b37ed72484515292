"""Makes rows of token ids and patches from texts and images that a model reads together."""

from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import numpy as np

from gateway.catalog import ImageReading, TextModel
from gateway.errors import InvalidRequest, RequestTooLarge
from gateway.images.preparation import Patches
from gateway.images.processors import AnyProcessor, Layout, max_bytes
from gateway.images.reader import Images
from gateway.service import tokens
from gateway.service.caller import Caller
from gateway.service.contents import TYPICAL_TOKENS, Content, Picture, PixelLimits, length, pictures, runs
from gateway.service.gather import prefetch
from gateway.service.image_batches import MAX_PREPARED_IMAGES
from gateway.text.chat import Chat
from gateway.text.tokenizer import PairFrame, Truncate

WINDOW_BYTES = 64 * 2**20
"""Pixels of the rows that are in memory at a time, in bytes, unless a single row has more."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A row whose images have not been read."""

    place: str
    """The item's field in error messages."""
    content: Content
    before: str = ""
    """The text of the template before the content, written for the tokenizer."""
    after: str = ""
    kept: int = 0
    """How many of the first parts of the content are never truncated: a query, which the caller has checked."""

    @property
    def end(self) -> int:
        """How many parts of the content are not truncated: those up to the last image."""
        parts = self.content
        return max((i + 1 for i, part in enumerate(parts) if isinstance(part, Picture) or i < self.kept), default=0)


@dataclass(frozen=True, slots=True)
class ImageRow:
    """A row of a model that reads texts and images."""

    ids: list[int]
    images: tuple[Patches, ...] = ()
    text_tokens: int = 0
    """The ids that do not stand for patches."""

    @property
    def patches(self) -> int:
        """Patches of all images, before merging."""
        return sum(len(image.pixels) for image in self.images)


@dataclass(frozen=True, slots=True)
class Reading:
    """How a call reads its rows."""

    caller: Caller
    reader: Images
    model: TextModel
    chat: Chat
    images: ImageReading
    processor: AnyProcessor
    """The model's, within the limits of the request."""

    @classmethod
    def of(cls, caller: Caller, reader: Images, model: TextModel, pixels: PixelLimits, place: str) -> "Reading":
        """How to read images with a model; `place` is the field of the first image.

        Raises:
            InvalidRequest: the model accepts only text, or the limits of the request are outside the model's.
        """
        if model.chat is None or model.images is None:
            raise InvalidRequest(f"{place} is an image, but model {model.name!r} accepts only text", param=place)
        return cls(caller, reader, model, model.chat, model.images, pixels.of(model.images.processor))

    async def read(self, picture: Picture) -> Patches:
        """Fetch or decode an image."""
        return await self.reader.read(picture.image, self.processor, picture.place, self.caller.account)

    def estimate(self, content: Content | str) -> int:
        """Estimate the tokens and patches of a content whose images have not been read."""
        patches = self.processor.max_patches
        of_each = min(TYPICAL_TOKENS, patches + patches // self.processor.merge**2)
        return tokens.estimate(length(content)) + of_each * len(pictures(content))

    def counts(self, images: Sequence[Patches]) -> list[int]:
        """How many tokens each grid of these images becomes."""
        return [self.processor.merged((grid,)) for image in images for grid in image.grids]

    def text(self, image: Patches) -> str:
        """What stands for an image in a row, with one placeholder for each of its grids, written for the tokenizer."""
        block = (self.processor.merge, self.processor.merge)
        single = Layout((), (block,) * len(image.grids), image.tiles)
        return self.model.tokenizer.trusted(self.processor.text(self.chat.image, self.chat.patch, single))

    def expand(self, ids: Sequence[int], images: Sequence[Patches], place: str) -> list[int]:
        """Repeat the placeholder of each grid once for each of its merged patches.

        Raises:
            InvalidRequest: there is another number of placeholders than of grids.
        """
        counts = self.counts(images)
        row = np.asarray(ids, np.int64)
        places = np.flatnonzero(row == self.images.token)
        if len(places) != len(counts):
            raise InvalidRequest(f"{place} contains text that the model mistakes for an image", param=place)
        repeats = np.ones(len(row), np.int64)
        repeats[places] = counts
        repeated: list[int] = np.repeat(row, repeats).tolist()
        return repeated


async def windows(
    reading: Reading,
    drafts: Sequence[Draft | list[int]],
    *,
    limit: int,
    truncate: Truncate,
    total: int = 0,
    window_bytes: int = WINDOW_BYTES,
) -> AsyncGenerator[list[ImageRow], None]:
    """Read the images of all rows and yield the rows in order, as many at a time as fit into memory.

    A list is emptied when the next one is asked for. The next images are read while the caller computes. Closing the
    generator stops the work.

    Args:
        reading: how to read them.
        drafts: rows, or the token ids of rows without images.
        limit: maximum number of ids of a row, placeholders and template included.
        truncate: what to do with rows over the limit. Only text behind the last image is truncated.
        total: tokens of the request that are not in these rows.
        window_bytes: pixels of the rows that are yielded together, unless a single row has more.

    Raises:
        InvalidRequest: an image cannot be read, or a row is over the limit or contains a special token.
        RequestTooLarge: the rows have more than tokens.MAX_TOKENS in total.
        TokenizerFailed: the tokenizer raised an error.
    """
    unread = [draft for draft in drafts if isinstance(draft, Draft)]
    for one in unread:
        parts = one.content if truncate == "none" else one.content[: one.end]
        tokens.check_characters(length(parts), one.place, limit)
    _check_least(reading, unread, limit, total)
    characters = sum(len(one.before) + length(one.content) for one in unread)
    await reading.caller.tokenize(characters, partial(_check_control, reading.model, unread, limit, truncate))
    occurrences = Counter(picture for one in unread for picture in pictures(one.content))
    calls = [partial(reading.read, picture) for picture in occurrences]
    at_a_time = max(1, min(MAX_PREPARED_IMAGES, window_bytes // max_bytes(reading.processor)))
    rows: list[ImageRow] = []
    size = 0
    async with aclosing(prefetch(calls, at_a_time)) as images:
        source = _Source(images, occurrences)
        for draft in drafts:
            if isinstance(draft, Draft):
                row, place = await _read(reading, draft, source, limit, truncate, characters), draft.place
            else:
                row, place = ImageRow(draft, (), len(draft)), "input"
            total = tokens.add_tokens(total, [row.ids], [place])
            rows.append(row)
            size += sum(image.pixels.nbytes for image in row.images)
            if size >= window_bytes:
                yield rows
                rows.clear()  # the caller holds it, and its pixels would stay while the next rows are read
                rows, size = [], 0
    if rows:
        yield rows


@dataclass(frozen=True, slots=True)
class _Source:
    """Images in the order in which rows first need them."""

    images: AsyncGenerator[Patches, None]
    occurrences: Mapping[Picture, int]
    repeated: dict[Picture, Patches] = field(default_factory=dict)
    """Those that several rows have, such as the images of a query."""

    async def read(self, picture: Picture) -> Patches:
        if picture in self.repeated:
            return self.repeated[picture]
        image = await anext(self.images)
        if self.occurrences[picture] > 1:
            self.repeated[picture] = image
        return image


def _check_least(reading: Reading, drafts: Sequence[Draft], limit: int, total: int) -> None:
    """Raise the error of too many tokens without reading images, if even the smallest would have as many."""
    of_each = reading.processor.min_patches // reading.processor.merge**2
    for draft in drafts:
        least = of_each * len(pictures(draft.content))
        if least > limit:
            raise InvalidRequest(
                f"{draft.place} has at least {least} tokens of images; {tokens.limit_of(reading.model, limit)}",
                param=draft.place,
            )
        total += least
        if total > tokens.MAX_TOKENS:
            raise RequestTooLarge(
                f"the request has at least {total} tokens up to {draft.place}; the limit is {tokens.MAX_TOKENS}",
                param=draft.place,
            )


def _check_control(model: TextModel, drafts: Sequence[Draft], limit: int, truncate: Truncate) -> None:
    """Raise InvalidRequest if a text contains a special token, except in the kept parts, which the caller checks."""
    for draft in drafts:
        behind = (_read_of(text, limit, truncate) for text in runs(draft.content[draft.end :]))
        for text in chain(runs(draft.content[draft.kept : draft.end]), behind):
            tokens.check_control(model, text, draft.place)


async def _read(
    reading: Reading, draft: Draft, source: _Source, limit: int, truncate: Truncate, characters: int
) -> ImageRow:
    """A row with its images, of a call with so many characters: many short rows must not block the event loop."""
    caller, count = reading.caller, 0
    images: list[Patches] = []
    expected = pictures(draft.content)
    if expected:
        with caller.timings.stage("decode", images=len(expected)):
            for picture in expected:
                images.append(await source.read(picture))
                count += sum(reading.counts(images[-1:]))
                if count > limit:  # the others may take much memory
                    raise InvalidRequest(
                        f"{draft.place} has over {count} tokens up to {picture.place};"
                        f" {tokens.limit_of(reading.model, limit)}",
                        param=draft.place,
                    )
    with caller.timings.stage("tokenize"):
        work = partial(_written, reading, draft, images, limit, truncate)
        ids = await caller.tokenize(characters, work)
    return ImageRow(ids, tuple(images), len(ids) - count)


def _written(reading: Reading, draft: Draft, images: Sequence[Patches], limit: int, truncate: Truncate) -> list[int]:
    """The ids of a row within the limit."""
    tokenizer, model = reading.model.tokenizer, reading.model
    before, text = _divided(reading, draft, images)
    text = _read_of(text, limit, truncate)
    frame = PairFrame([], before, draft.after, [], 0, 0)
    (ids,) = tokenizer.encode([text], frame)
    row = reading.expand(ids, images, draft.place)
    if len(row) <= limit:
        return row
    counted = f"{len(row)} tokens" + " with its images" * bool(images) + " and the query" * bool(draft.kept)
    if truncate == "none":
        raise InvalidRequest(
            f"{draft.place} has {counted}; {tokens.limit_of(model, limit)}",
            param=draft.place,
        )
    located = tokenizer.locate(text, frame=frame)
    head = reading.expand(located.head, images, draft.place)
    room = limit - len(head) - len(located.tail)
    if room < 1 or not located.ids:
        raise InvalidRequest(
            f"{draft.place} has {counted}; {tokens.limit_of(model, limit)}, and only text behind the last image can be"
            " truncated",
            param=draft.place,
        )
    return head + (located.ids[-room:] if truncate == "start" else located.ids[:room]) + located.tail


def _read_of(text: str, limit: int, truncate: Truncate) -> str:
    """What is read of a text that may be truncated to `limit` tokens."""
    most = limit * tokens.MAX_CHARACTERS_PER_TOKEN
    return text[-most:] if truncate == "start" else text[:most]


def _divided(reading: Reading, draft: Draft, images: Sequence[Patches]) -> tuple[str, str]:
    """The text of a row that is not truncated, and the text behind it."""
    remaining = iter(images)
    written = [part if isinstance(part, str) else reading.text(next(remaining)) for part in draft.content]
    return draft.before + "".join(written[: draft.end]), "".join(written[draft.end :])
