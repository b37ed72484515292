"""Texts and images in requests: as objects, as lists of parts, and as the messages of a conversation."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from gateway.errors import InvalidRequest, quoted
from gateway.images.processors import Area
from gateway.routes import decoding
from gateway.routes.decoding import Refused
from gateway.routes.http import Request
from gateway.service.contents import NO_LIMITS, Content, Part, Picture, PixelLimits, joined
from gateway.service.prompts import MAX_INSTRUCTION
from gateway.service.text_batches import MAX_ROWS

MAX_PARTS = MAX_ROWS
"""Maximum number of parts of a content. Each part may stand for a document."""
MAX_MESSAGES = 16
"""Maximum number of messages. Only one system message, one user message and empty assistant messages are supported."""
IMAGES = ("image", "url", "bytes")
"""The fields of an object that may hold its image."""
IMAGE = re.compile(r"\s*data:image/", re.IGNORECASE)
"""The beginning of an image sent as a string, as some of Jina's clients do. For models that take texts and images."""
BEGINNING = 256
"""How many characters of a string to match with IMAGE: matching millions of spaces takes long."""
TEMPLATES: Mapping[str, Refused] = {
    "add_generation_prompt": Refused("the model's own chat template is used", (True,)),
    "chat_template": Refused("the model's own chat template is used"),
    "chat_template_kwargs": Refused("the model's own chat template is used"),
    "continue_final_message": Refused("the model's own chat template is used", (False, True)),
    "media_io_kwargs": Refused("transparent pixels become white, and there are no audios and videos"),
    "padding": Refused("texts are computed without padding", ("do_not_pad",)),
}
"""Fields of vLLM that would change what a model reads."""
ROLES = Literal["system", "developer", "user", "assistant"]


class TextPart(Struct, tag="text", forbid_unknown_fields=True):
    """A text."""

    text: str


class ImageUrl(Struct, forbid_unknown_fields=True):
    """The location of an image."""

    url: str
    """A data: URI, or an http(s) URL if the server fetches images."""
    detail: str | None = None
    """Accepted but ignored."""


class ImageUrlPart(Struct, tag="image_url", forbid_unknown_fields=True):
    """An image, as in the APIs of OpenAI, Cohere and vLLM or, as a string, in that of Voyage."""

    image_url: ImageUrl | str


class ImageBase64Part(Struct, tag="image_base64", forbid_unknown_fields=True):
    """An image, as in the API of Voyage."""

    image_base64: str


class ImagePart(Struct, tag="image", forbid_unknown_fields=True):
    """An image, as in the messages of transformers."""

    image: str


ContentPart = TextPart | ImageUrlPart | ImageBase64Part | ImagePart
Parts = Annotated[list[ContentPart], Meta(min_length=1, max_length=MAX_PARTS)]


class InputItem(Struct, forbid_unknown_fields=True):
    """A text, an image, or several of both. An empty string counts as absent."""

    text: str = ""
    image: str = ""
    """A data: URI, base64, or an http(s) URL if the server fetches images. PNG, JPEG, WebP, GIF or BMP."""
    url: str = ""
    """The URL of an image, for older clients of Jina."""
    bytes: str = ""
    """An image in base64, for older clients of Jina."""
    content: str | Parts | None = None
    """Instead of the others: texts and images in the order in which the model reads them."""
    refused: ClassVar[Mapping[str, Refused]] = {
        kind: Refused("only text and images are supported") for kind in ("audio", "pdf", "video")
    }


class Message(Struct, forbid_unknown_fields=True):
    """A message of a conversation."""

    role: ROLES
    content: str | Annotated[list[ContentPart], Meta(max_length=MAX_PARTS)]
    name: str | None = None
    """Accepted but ignored."""


class PixelBounds(Struct, forbid_unknown_fields=True):
    """Limits for the pixels of images, as in vLLM's API."""

    min_pixels: Area | None = None
    max_pixels: Area | None = None


def read_parts(parts: Sequence[ContentPart], place: str) -> list[Part]:
    """The parts of a content without empty texts; `place` is its field, such as "input[3].content".

    Raises:
        InvalidRequest: nothing is left.
    """
    read = [_read_part(part, f"{place}[{index}]") for index, part in enumerate(parts)]
    if not any(read):
        raise InvalidRequest(f"{place} is empty", param=place)
    return [part for part in read if part]


def read_each(parts: Sequence[ContentPart], place: str) -> dict[str, str | Content]:
    """Each part, also an empty text, as an input of its own, by its field; `place` is that of the list."""
    read = {f"{place}[{index}]": _read_part(part, f"{place}[{index}]") for index, part in enumerate(parts)}
    return {own: part if isinstance(part, str) else [part] for own, part in read.items()}


def _read_part(part: ContentPart, place: str) -> Part:
    match part:
        case TextPart():
            return part.text
        case ImageUrlPart():
            url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
            return Picture(url.strip(), f"{place}.image_url")
        case ImageBase64Part():
            return Picture(part.image_base64.strip(), f"{place}.image_base64")
        case ImagePart():
            return Picture(part.image.strip(), f"{place}.image")


def check_alone(item: InputItem, place: str) -> None:
    """Raise InvalidRequest if an object has a content and other fields."""
    if item.content is not None and any(getattr(item, name) for name in ("text", *IMAGES)):
        raise InvalidRequest(f"{place} has content and other fields; send only one of them", param=place)


def read_item(item: InputItem, place: str) -> list[Part]:
    """The text and image of an item in this order, or its content.

    Raises:
        InvalidRequest: it is empty, or has several of fields that exclude each other.
    """
    check_alone(item, place)
    if item.content is not None:
        parts = [TextPart(item.content)] if isinstance(item.content, str) else item.content
        return read_parts(parts, f"{place}.content")
    images = {name: image for name in IMAGES if (image := getattr(item, name))}
    if not item.text and not images:
        raise InvalidRequest(f"{place} has neither text nor image", param=place)
    if len(images) > 1:
        raise InvalidRequest(f"{place} has more than one of image, url and bytes", param=place)
    text: list[Part] = [item.text] if item.text else []
    return text + [Picture(image.strip(), f"{place}.{name}") for name, image in images.items()]


def is_image(text: str) -> bool:
    """Whether a string begins like an image, in requests to models that take texts and images."""
    return IMAGE.match(text, 0, BEGINNING) is not None


def as_parts(value: object, place: str) -> list[Part]:
    """The parts of an object's content in parsed JSON: a text, or a list of parts."""
    return read_item(decoding.convert({"content": value}, InputItem, place), place)


def simple(content: Content) -> str | Content:
    """A content whose texts that follow each other are one; a string if there are no images.

    A query is read with each document: with thousands of parts, both together would be millions.
    """
    parts = joined(content)
    return parts[0] if len(parts) == 1 and isinstance(parts[0], str) else parts


def read_messages(messages: Sequence[Message]) -> tuple[list[Part], str | None]:
    """The content of the user message, and the instruction in the system message.

    Raises:
        InvalidRequest: there is not one user message, an assistant message is not empty, or another message is.
    """
    instruction: str | None = None
    content: list[Part] | None = None
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        parts = [TextPart(message.content)] if isinstance(message.content, str) else message.content
        if message.role == "assistant" and not any(not isinstance(part, TextPart) or part.text for part in parts):
            continue  # vLLM's clients end with an empty answer, which models are trained to continue
        if message.role == "user" and content is None:
            content = read_parts(parts, f"{place}.content")
        elif message.role in ("system", "developer") and instruction is None and content is None:
            read = simple(read_parts(parts, f"{place}.content"))
            if not isinstance(read, str):
                raise InvalidRequest(f"{place}: an instruction cannot have images", param=place)
            if len(read) > MAX_INSTRUCTION:
                raise InvalidRequest(f"{place} is an instruction of over {MAX_INSTRUCTION} characters", param=place)
            instruction = read
        else:
            raise InvalidRequest(
                f"{place}: only one user message is supported, after at most one system message", param=place
            )
    if content is None:
        raise InvalidRequest("messages has no user message", param="messages")
    return content, instruction


def check_source(request: Request, given: object, messages: Sequence[Message] | None) -> None:
    """Raise InvalidRequest unless a request has either `input` or `messages`. It needs no model, so it comes first."""
    if given is not None and messages:
        raise InvalidRequest("input and messages exclude each other; send only one of them", param="messages")
    if given is None and messages is None:
        unknown = ", ".join(map(quoted, request.state["record"].ignored_fields))
        raise InvalidRequest("input is required" + (f"; unknown fields: {unknown}" if unknown else ""), param="input")


def read_pixels(min_pixels: int | None, max_pixels: int | None, kwargs: PixelBounds | None) -> PixelLimits:
    """The limits of a request for images.

    Raises:
        InvalidRequest: a limit is sent twice.
    """
    of = kwargs or PixelBounds()
    for name, first, second in (("min_pixels", min_pixels, of.min_pixels), ("max_pixels", max_pixels, of.max_pixels)):
        if first is not None and second is not None:
            raise InvalidRequest(
                f"{name} and mm_processor_kwargs.{name} have the same meaning; send only one of them", param=name
            )
    if min_pixels is None and max_pixels is None:
        return PixelLimits(of.min_pixels, of.max_pixels, "mm_processor_kwargs.") if of != PixelBounds() else NO_LIMITS
    lowest = min_pixels if of.min_pixels is None else of.min_pixels
    return PixelLimits(lowest, max_pixels if of.max_pixels is None else of.max_pixels)
