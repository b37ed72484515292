"""The text of a row that is a message of texts and images: what the source's chat template makes of it.

The template is rendered with sentinels, and taken only if it is a fixed text around its values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from sentence_transformers.base.modules import Transformer
from tokenizers import Tokenizer

from export.errors import SourceError
from export.loading.models import loading
from export.manifest import ModelSpec
from export.rerankers import INSTRUCTION
from export.tasks.images import PATCHES, Seen
from export.tasks.pair_template import PROBE, SENTINELS, template_options

CONTENT = "{content}"
Content = Sequence[str | Image.Image]
"""Texts and images in the order in which the model reads them."""
Read = Sequence[str | Seen]
"""The same as the model's processor has read the images."""
_PLACEHOLDER = Image.new("RGB", (28, 28))
"""An image for templates, which do not look at it."""
_FIRST, _SECOND, _TOLD = SENTINELS


@dataclass(frozen=True, slots=True)
class ImageText:
    """What stands for an image in the text of a row."""

    image: str
    """What the template writes, with {patches}."""
    patch: str
    """The text of the token that stands for one merged patch."""
    around: tuple[str, str] = ("", "")
    """What the processor writes before and behind the patches."""

    @property
    def written(self) -> str:
        """What stands in the text in the end, with {patches}."""
        return self.image.replace(PATCHES, PATCHES.join(self.around))

    @property
    def once(self) -> str:
        """What the template writes, with one token."""
        return self.image.replace(PATCHES, self.patch)

    def of(self, content: Read) -> str:
        """The text of texts and images one behind the other."""
        return "".join(part if isinstance(part, str) else self.written.replace(PATCHES, part.text) for part in content)


@dataclass(frozen=True, slots=True)
class Chat:
    """The template of a row of one message. It holds all special tokens; the tokenizer adds none."""

    text: str
    """With {content} and perhaps {instruction}."""
    instruction: str
    """What stands for {instruction} by default."""
    images: ImageText

    @property
    def parameter(self) -> Mapping[str, Any]:
        """The parameter `chat` of an entry."""
        return {
            "text": self.text,
            "instruction": self.instruction,
            "image": self.images.written,
            "patch": self.images.patch,
        }

    def render(self, content: Read, instruction: str = "") -> str:
        """The text of a row."""
        before, after = self.text.replace(INSTRUCTION, instruction or self.instruction).split(CONTENT)
        return before + self.images.of(content) + after


def of_messages(spec: ModelSpec, transformer: Transformer) -> Chat:
    """The template of a message that a folder's chat template renders, as sentence-transformers calls it.

    Raises:
        SourceError: it cannot be rendered, or is not a fixed text around its values.
    """
    _check_format(spec, transformer)
    with loading(spec):
        plain = _render(transformer, [_FIRST])
        told = _render(transformer, [_FIRST], _TOLD)
        mixed = _render(transformer, [_FIRST, _PLACEHOLDER, _SECOND])
    head, found, tail = plain.partition(_FIRST)
    image = _image_text(spec, transformer, _between(mixed, f"{head}{_FIRST}", f"{_SECOND}{tail}") if found else None)
    before, _, after = told.partition(_TOLD)
    default = _between(plain, before, after)
    chat = Chat(plain.replace(_FIRST, CONTENT), "", image)
    if _TOLD in told and default is not None:
        chat = Chat(told.replace(_TOLD, INSTRUCTION).replace(_FIRST, CONTENT), default, image)
    _check(spec, transformer, chat)
    special = special_tokens(transformer.tokenizer)
    return Chat(special[0] + chat.text + special[1], chat.instruction, chat.images)


def image_text(spec: ModelSpec, transformer: Transformer) -> ImageText:
    """What a folder's chat template renders for an image in a document, and so for one in a query.

    Raises:
        SourceError: it cannot be rendered, or is not a fixed text around its values.
    """
    _check_format(spec, transformer)
    with loading(spec):
        plain = _rendered(transformer, pair([_FIRST], [_SECOND]))
        before, _, after = plain.partition(_SECOND)
        mixed = _rendered(transformer, pair([_FIRST], [_SECOND, _PLACEHOLDER, _TOLD]))
        found = _image_text(spec, transformer, _between(mixed, f"{before}{_SECOND}", f"{_TOLD}{after}"))
        once = found.once
        sides: Sequence[Content] = ([_PLACEHOLDER], [PROBE[0], _PLACEHOLDER, PROBE[1]], [_PLACEHOLDER, _PLACEHOLDER])
        for query in sides:
            for document in sides:
                expected = plain.replace(_FIRST, _written(query, once)).replace(_SECOND, _written(document, once))
                if _rendered(transformer, pair(query, document)) != expected:
                    raise _unfixed(spec)
    return found


def special_tokens(tokenizer: Any) -> tuple[str, str]:  # noqa: ANN401 - of transformers
    """The texts of the special tokens that a tokenizer puts before and behind a text."""
    encoding = tokenizer.backend_tokenizer.encode("a")
    inside = [place for place, special in enumerate(encoding.special_tokens_mask) if not special]
    return "".join(encoding.tokens[: inside[0]]), "".join(encoding.tokens[inside[-1] + 1 :])


def bare(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer that adds no special tokens: those of its rows are in their templates."""
    made = Tokenizer.from_str(tokenizer.to_str())
    if made.encode("").ids:
        made.post_processor = None
    return made


def message(content: Content) -> list[dict[str, Any]]:
    """Texts and images as the messages of an input of sentence-transformers."""
    return [{"role": "user", "content": [_part(part) for part in content]}]


def pair(query: Content, document: Content) -> list[dict[str, Any]]:
    """The same for a query and a document."""
    roles = zip(("query", "document"), (query, document), strict=True)
    return [{"role": role, "content": [_part(part) for part in content]} for role, content in roles]


def _render(transformer: Transformer, content: Content, prompt: str = "") -> str:
    return _rendered(transformer, message(content), prompt)


def _rendered(transformer: Transformer, messages: list[dict[str, Any]], prompt: str = "") -> str:
    if prompt:
        (messages,) = transformer.input_formatter.prepend_prompt_to_messages([messages], prompt)
    return str(transformer.processor.apply_chat_template(messages, tokenize=False, **template_options(transformer)))


def _part(part: str | Image.Image) -> dict[str, Any]:
    kind = "text" if isinstance(part, str) else "image"
    return {"type": kind, kind: part}


def _check_format(spec: ModelSpec, transformer: Transformer) -> None:
    if "message" not in transformer.modality_config or transformer.input_formatter.message_format != "structured":
        raise SourceError(f"[{spec.name}] source: its chat template has no place for texts and images side by side")


def _between(text: str, before: str, after: str) -> str | None:
    """What is between two texts; None where they do not fit."""
    fits = text.startswith(before) and text.endswith(after) and len(text) >= len(before) + len(after)
    return text[len(before) : len(text) - len(after)] if fits else None


def _image_text(spec: ModelSpec, transformer: Transformer, rendered: str | None) -> ImageText:
    patch = getattr(transformer.processor, "image_token", None)
    if rendered is None or not isinstance(patch, str) or rendered.count(patch) != 1:
        raise _unfixed(spec)
    begin, end = (getattr(transformer.processor, name, None) or "" for name in ("boi_token", "eoi_token"))
    return ImageText(rendered.replace(patch, PATCHES), patch, (begin, end))


def _check(spec: ModelSpec, transformer: Transformer, chat: Chat) -> None:
    """Refuse a template that renders other contents in another way than those that it was found by."""
    if chat.text.count(CONTENT) != 1 or chat.text.count(INSTRUCTION) > 1:
        raise _unfixed(spec)
    once = chat.images.once
    contents: Sequence[Content] = (
        [PROBE[0]],
        PROBE[:2],
        [_PLACEHOLDER],
        [_PLACEHOLDER, _PLACEHOLDER, PROBE[0]],
        [PROBE[1], _PLACEHOLDER, PROBE[0], _PLACEHOLDER],
    )
    instructions = ("", PROBE[2]) if INSTRUCTION in chat.text else ("",)
    with loading(spec):
        for content in contents:
            for instruction in instructions:
                told = chat.text.replace(INSTRUCTION, instruction or chat.instruction)
                if _render(transformer, content, instruction) != told.replace(CONTENT, _written(content, once)):
                    raise _unfixed(spec)


def _written(content: Content, image: str) -> str:
    return "".join(part if isinstance(part, str) else image for part in content)


def _unfixed(spec: ModelSpec) -> SourceError:
    return SourceError(
        f"[{spec.name}] source: its chat template is not a fixed text around its texts and images, or changes them"
    )
