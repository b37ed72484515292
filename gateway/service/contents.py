"""Texts and images that a model reads together, in the order of the client."""

from collections.abc import Sequence
from itertools import groupby

from msgspec import Struct

from gateway.catalog import TextModel
from gateway.errors import InvalidRequest
from gateway.images.processors import AnyProcessor, LimitError


class Picture(Struct, frozen=True, gc=False):
    """An image as the client sent it."""

    image: str
    """A data: URI, base64 or an http(s) URL."""
    place: str
    """Its field in error messages, such as "input[3].image"."""


Part = str | Picture
Content = Sequence[Part]
"""The parts of an item, a query or a document."""
TYPICAL_TOKENS = 1024
"""For estimates: tokens and patches of an image that is not read yet."""


class PixelLimits(Struct, frozen=True):
    """Limits of a request for the pixels of resized images, within those of the model. None for the model's."""

    min_pixels: int | None = None
    max_pixels: int | None = None
    where: str = ""
    """What is before their names in error messages, such as "mm_processor_kwargs."."""

    def of(self, processor: AnyProcessor) -> AnyProcessor:
        """The image processor with these limits.

        Raises:
            InvalidRequest: the processor has no such limits, or these are outside the model's.
        """
        try:
            return processor.limited(self.min_pixels, self.max_pixels)
        except LimitError as exc:
            raise InvalidRequest(f"{self.where}{exc}", param=self.where + exc.name) from exc


NO_LIMITS = PixelLimits()


def pictures(content: Content | str) -> list[Picture]:
    """The images of a content."""
    return [] if isinstance(content, str) else [part for part in content if isinstance(part, Picture)]


def text_of(content: Content | str) -> str:
    """The texts of a content, joined."""
    return content if isinstance(content, str) else "".join(part for part in content if isinstance(part, str))


def length(content: Content | str) -> int:
    """Characters of all texts of a content."""
    return len(content) if isinstance(content, str) else sum(len(part) for part in content if isinstance(part, str))


def joined(content: Content) -> list[Part]:
    """A content in which texts that follow each other are one."""
    parts: list[Part] = []
    for is_text, group in groupby(content, lambda part: isinstance(part, str)):
        run = [*group]
        parts += ["".join(map(str, run))] if is_text else run
    return parts


def runs(content: Content | str) -> list[str]:
    """The texts between the images of a content, since parts of text that follow each other become one."""
    return [content] if isinstance(content, str) else [part for part in joined(content) if isinstance(part, str)]


def check(model: TextModel, content: Content | str, place: str) -> None:
    """Raise InvalidRequest if a content has more images than a model accepts."""
    count = len(pictures(content))
    if model.images is not None and count > model.images.most:
        raise InvalidRequest(
            f"{place} has {count} images; the limit of model {model.name!r} is {model.images.most}", param=place
        )
    if count and model.chat is not None and model.chat.document_text and text_of(content):
        raise InvalidRequest(
            f"{place} has a text and an image; model {model.name!r} reads one or the other", param=place
        )
