"""Texts and images to embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gateway.catalog import ImageModel, Model, TextModel
from gateway.errors import InvalidRequest
from gateway.images.pool import Pixels
from gateway.images.reader import Images
from gateway.service import image_batches, text_batches, tokens
from gateway.service.caller import Caller
from gateway.service.gather import gather
from gateway.service.tokens import Text
from gateway.text.tokenizer import Truncate
from gateway.vectors import normalise

NOTHING = np.empty((0, 1), np.float32)
"""The vectors of no rows, of any width."""


@dataclass(frozen=True, slots=True)
class Item:
    """What one vector is made of: a text, an image, or both."""

    place: str
    """What error messages call it, such as "input[3]"."""
    text: Text | None = None
    image: str | None = None
    """A data: URI, base64 or an http(s) URL."""
    image_place: str = ""
    """What they call the image, if not "input[3].image"."""

    def where_image(self) -> str:
        """What error messages call its image."""
        return self.image_place or f"{self.place}.image"


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The answer to one call."""

    vectors: NDArray[np.float32]
    """[n, d], in the order of the items; not normalised, but for those of items with text and image."""
    text_tokens: int
    """What was computed, special tokens and the model's prompt included."""
    image_tokens: int
    """The patches of all images."""


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
    """Embed items.

    A text and an image in one item make one vector: the mean of both vectors, each of length 1 and with the weight that
    the model gives it, and of length 1 again.

    Args:
        caller: on whose behalf.
        reader: of images.
        served: all models, to name those that take images where this one does not.
        model: an embedding model.
        items: 1 to 2,048 of them.
        prompt: put in front of those texts that are not token ids.
        truncate: what to do with texts over the limit.
        max_tokens: a limit below the model's own.

    Raises:
        GatewayError: InvalidRequest, or what `parts.run` raises.
    """
    _check_kinds(served, model, items)
    caller.check(
        model.text, sum(tokens.estimate(_prompted(prompt, item.text)) for item in items if item.text is not None)
    )
    if model.image is not None:
        caller.check(model.image, model.image.patches * sum(item.image is not None for item in items))
    has_text = np.array([item.text is not None for item in items])
    has_image = np.array([item.image is not None for item in items])
    with caller.timings.stage("tokenize"):
        ids = await _encode(caller, model.text, items, prompt, max_tokens, truncate) if model.text else []
        prefixes = await _prefixes(caller, model.text, items, prompt, ids) if model.text else []
    # Images first: one that cannot be read ends the work on texts.
    image_vectors, text_vectors = await gather(
        _embed_images(caller, reader, model.image, items), _embed_texts(caller, model.text, ids, prefixes)
    )
    of_text, of_image = np.zeros((2, len(items), model.width), np.float32)
    of_text[has_text] = text_vectors
    of_image[has_image] = image_vectors
    vectors = np.where(has_image[:, None], of_image, of_text)
    both = has_text & has_image
    mean = model.text_weight * normalise(of_text[both]) + (1 - model.text_weight) * normalise(of_image[both])
    vectors[both] = normalise(mean)
    patches = model.image.patches if model.image else 0
    return Embeddings(vectors, sum(map(len, ids)), int(has_image.sum()) * patches)


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
    prompt: str,
    max_tokens: int | None,
    truncate: Truncate,
) -> list[list[int]]:
    texts: list[Text] = []
    places: list[str] = []
    for item in items:
        if item.text is not None:
            texts.append(_prompted(prompt, item.text))
            places.append(item.place)
    limit = min(text_model.max_tokens, max_tokens or text_model.max_tokens)
    return await tokens.encode(caller, text_model, texts, places, limit, truncate=truncate)


async def _prefixes(
    caller: Caller, text_model: TextModel, items: Sequence[Item], prompt: str, ids: Sequence[list[int]]
) -> list[int]:
    """How many ids of each row are the prompt's, for models that leave them out of their vectors.

    As sentence-transformers counts them (Transformer._get_prompt_length): the tokens of the prompt alone, the special
    one in front included and the one behind not.
    """
    if not text_model.prefix:
        return []
    (alone,) = await caller.read(len(prompt), partial(text_model.tokenizer.encode, [prompt])) if prompt else [[]]
    length = len(alone) - bool(text_model.tokenizer.behind) if alone else 0
    texts = [item.text for item in items if item.text is not None]
    return [min(length, len(row)) if isinstance(text, str) else 0 for text, row in zip(texts, ids, strict=True)]


async def _embed_texts(
    caller: Caller, text_model: TextModel | None, ids: Sequence[list[int]], prefixes: Sequence[int]
) -> NDArray[np.float32]:
    return (
        await text_batches.run(caller, text_model, [(row,) for row in ids], prefixes)
        if text_model is not None
        else NOTHING
    )


async def _embed_images(
    caller: Caller, reader: Images, text_model: ImageModel | None, items: Sequence[Item]
) -> NDArray[np.float32]:
    if text_model is None:
        return NOTHING
    preparation = text_model.preparation
    given = [(item.image, item.where_image()) for item in items if item.image is not None]

    async def read(index: int) -> Pixels:
        image, place = given[index]
        return await reader.read(image, preparation, place, caller.account)

    return await image_batches.run(caller, text_model, len(given), read)
