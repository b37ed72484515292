"""Embeds texts and images."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from gateway.catalog import ImageModel, Model, TextModel
from gateway.errors import InvalidRequest
from gateway.images.preparation import Pixels
from gateway.images.reader import Images
from gateway.service import tokens
from gateway.service.caller import Caller
from gateway.service.gather import gather
from gateway.service.image_batches import infer_images
from gateway.service.text_batches import infer_texts
from gateway.service.tokens import Text
from gateway.text.tokenizer import Truncate
from gateway.vectors import normalize

Vectors = NDArray[np.float32]

NO_VECTORS = np.empty((0, 1), np.float32)


class Item(Struct, frozen=True, gc=False):
    """The input of one vector: a text, an image, or both."""

    place: str
    """The item's field in error messages, such as "input[3]"."""
    text: Text | None = None
    image: str | None = None
    """A data: URI, base64 or an http(s) URL."""
    image_place: str = ""
    """The image's field in error messages, if it is not "input[3].image"."""

    def where_image(self) -> str:
        """The image's field in error messages."""
        return self.image_place or f"{self.place}.image"


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The result of one call."""

    vectors: Vectors
    """[n, d], in the order of the items; not normalized, except those of items with text and image."""
    text_tokens: int
    """Tokens of all texts, including special tokens and the model's prompt, excluding truncated ones."""
    image_tokens: int
    """Patches of all images."""


async def embed(
    caller: Caller,
    reader: Images,
    served: Sequence[Model],
    model: Model,
    items: Sequence[Item],
    *,
    prompt: str,
    truncate: Truncate,
    max_tokens: int | None = None,
) -> Embeddings:
    """Embed items. An item with text and image gets one vector: the normalized weighted mean of both unit vectors.

    Args:
        caller: the request to work for.
        reader: fetches and decodes images.
        served: all models, to name those that accept images if this one does not.
        model: an embedding model.
        items: 1 to 2,048 items.
        prompt: put before all texts, but not before token ids.
        truncate: what to do with texts over the limit.
        max_tokens: a limit below the model's own.

    Raises:
        GatewayError: InvalidRequest, RequestTooLarge, TokenizerFailed, or what `batches.infer` raises.
    """
    _check_kinds(served, model, items)
    texts = [_prompted(prompt, item.text) for item in items if item.text is not None]
    caller.check(model.text, sum(map(tokens.estimate, texts)))
    patches = model.image.patches * sum(item.image is not None for item in items) if model.image else 0
    caller.check(model.image, patches)
    with caller.timings.stage("tokenize"):
        ids = await _encode(caller, model.text, items, texts, max_tokens, truncate) if model.text else []
        prefixes = await _prefixes(caller, model.text, items, prompt, ids) if model.text else []
    if patches:
        # Images first: an image that cannot be read cancels the work on texts.
        image_vectors, text_vectors = await gather(
            _embed_images(caller, reader, model.image, items), _embed_texts(caller, model.text, ids, prefixes)
        )
        vectors = _combine(model, items, text_vectors, image_vectors)
    else:
        vectors = await _embed_texts(caller, model.text, ids, prefixes)
    return Embeddings(vectors, sum(map(len, ids)), patches)


def _combine(model: Model, items: Sequence[Item], texts: Vectors, images: Vectors) -> Vectors:
    """One vector per item [n, d], given those of all texts and of all images, in the order of the items."""
    has_text = np.array([item.text is not None for item in items])
    has_image = np.array([item.image is not None for item in items])
    vectors = np.empty((len(items), model.width), np.float32)
    vectors[has_text] = texts
    vectors[has_image] = images
    text_rows, image_rows = has_image[has_text], has_text[has_image]  # those of items with both
    mean = model.text_weight * normalize(texts[text_rows]) + (1 - model.text_weight) * normalize(images[image_rows])
    vectors[has_text & has_image] = normalize(mean)
    return vectors


def _check_kinds(served: Sequence[Model], model: Model, items: Sequence[Item]) -> None:
    for item in items:
        if item.image is not None and model.image is None:
            names = ", ".join(other.name for other in served if other.image is not None) or "none"
            raise InvalidRequest(
                f"{item.place} contains an image, but model {model.name!r} accepts only text;"
                f" models that accept images: {names}",
                param=item.where_image(),
            )
        if item.text is not None and model.text is None:
            raise InvalidRequest(
                f"{item.place} contains text, but model {model.name!r} accepts only images", param=item.place
            )
        if not item.text and item.image is None:
            raise InvalidRequest(f"{item.place} is empty", param=item.place)


def _prompted(prompt: str, text: Text) -> Text:
    return prompt + text if isinstance(text, str) else text


async def _encode(
    caller: Caller,
    text_model: TextModel,
    items: Sequence[Item],
    texts: Sequence[Text],
    max_tokens: int | None,
    truncate: Truncate,
) -> list[list[int]]:
    places = [item.place for item in items if item.text is not None]
    limit = min(text_model.max_tokens, max_tokens or text_model.max_tokens)
    return await tokens.encode(caller, text_model, texts, places, limit, truncate=truncate)


async def _prefixes(
    caller: Caller, text_model: TextModel, items: Sequence[Item], prompt: str, ids: Sequence[list[int]]
) -> list[int]:
    """The number of ids of each row that belong to the prompt, for models that exclude the prompt from pooling.

    As in sentence-transformers (Transformer._get_prompt_length): the tokens of the prompt alone, with the special token
    before it and without the one after it.
    """
    if not text_model.prefix:
        return []
    (alone,) = await caller.tokenize(len(prompt), partial(text_model.tokenizer.encode, [prompt])) if prompt else [[]]
    length = len(alone) - bool(text_model.tokenizer.behind) if alone else 0
    texts = [item.text for item in items if item.text is not None]
    return [min(length, len(row)) if isinstance(text, str) else 0 for text, row in zip(texts, ids, strict=True)]


async def _embed_texts(
    caller: Caller, model: TextModel | None, ids: Sequence[list[int]], prefixes: Sequence[int]
) -> Vectors:
    return NO_VECTORS if model is None else await infer_texts(caller, model, [(row,) for row in ids], prefixes)


async def _embed_images(caller: Caller, reader: Images, model: ImageModel | None, items: Sequence[Item]) -> Vectors:
    if model is None:
        return NO_VECTORS
    preparation = model.preparation
    images = [(item.image, item.where_image()) for item in items if item.image is not None]

    async def read(index: int) -> Pixels:
        image, place = images[index]
        return await reader.read(image, preparation, place, caller.account)

    return await infer_images(caller, model, len(images), read)
