"""Embeds texts and images."""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from gateway.catalog import ImageModel, Model, Offer, TextModel
from gateway.contract import LATE_INTERACTION, QUERY_TOKENS, SPARSE_WEIGHTS, TOKENS
from gateway.errors import InvalidRequest, RequestTooLarge
from gateway.images.preparation import Patches, Pixels
from gateway.images.reader import Images
from gateway.service import chunks, tokens
from gateway.service.caller import Caller
from gateway.service.chunks import Chunk, Chunking
from gateway.service.gather import gather
from gateway.service.image_batches import infer_images
from gateway.service.text_batches import Computed, Wanted, infer_texts, row_of
from gateway.service.tokens import Text
from gateway.text.tokenizer import Truncate
from gateway.vectors import Floats, Sparse, normalize

Vectors = NDArray[np.float32]

NO_VECTORS = np.empty((0, 0), np.float32)
DENSE: frozenset[Offer] = frozenset({"dense"})
MAX_TOKEN_NUMBERS = 2**24
"""Maximum number of numbers in all token vectors of a call: 64 MiB of floats, and up to four times as much JSON."""
NUMBER_BYTES = 18
"""What a number of a response takes in memory: 4 as a float, and up to 14 as JSON."""


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
    """[n, d], in the order of the items; not normalized, except those of items with text and image. [0, 0] if dense
    vectors are not wanted."""
    text_tokens: int
    """Tokens of all texts, including special tokens and the model's prompt, excluding truncated ones."""
    image_tokens: int
    """Patches of all images."""
    sparse: list[Sparse] = field(default_factory=list)
    """The sparse vector of each item, if wanted."""
    tokens: list[Floats] = field(default_factory=list)
    """The token vectors of each item, [L, d], if wanted; not normalized."""
    truncated: int = 0
    """The number of sparse vectors with as many terms as the model can return."""

    @property
    def numbers(self) -> int:
        """How many numbers all vectors hold."""
        terms = sum(len(vector.indices) for vector in self.sparse)
        return self.vectors.size + 2 * terms + sum(vectors.size for vectors in self.tokens)


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
    kinds: Set[Offer] = DENSE,
    is_query: bool = False,
    token_dimensions: int | None = None,
    averages: bool = False,
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
        kinds: kinds of vectors that the model offers, all computed in one pass.
        is_query: whether texts are queries, whose token vectors late-interaction models compute in another way.
        token_dimensions: how many dimensions of token vectors to keep.
        averages: whether to split texts over the model's limit and average the vectors of their chunks, instead of
            `truncate` and `max_tokens`. Only for dense vectors.

    Raises:
        GatewayError: InvalidRequest, RequestTooLarge, TokenizerFailed, or what `batches.infer` raises.
    """
    _check_kinds(served, model, items, kinds)
    texts = [_prompted(prompt, item.text) for item in items if item.text is not None]
    caller.check(model.text, sum(map(tokens.estimate, texts)))
    patches = model.image.patches * sum(item.image is not None for item in items) if model.image else 0
    caller.check(model.image, patches)
    if model.text is None:
        caller.reserve(len(items) * model.width * NUMBER_BYTES)
        return Embeddings(await _embed_images(caller, reader, model.image, items), 0, patches)
    is_query = is_query and model.text.role == LATE_INTERACTION and "multi_vector" in kinds
    if is_query:
        if QUERY_TOKENS not in model.text.outputs:
            raise InvalidRequest(f"model {model.name!r} has no token vectors of queries", param=_field(items))
        max_tokens = min(filter(None, (max_tokens, model.text.max_query_tokens)), default=None)
    with caller.timings.stage("tokenize"):
        split: list[list[Chunk]] = []
        of_rows = [item.text for item in items if item.text is not None]
        if averages:
            split = await _split(caller, model.text, items, prompt)
            ids = [chunk.row for of_text in split for chunk in of_text]
            of_rows = [text for text, of_text in zip(of_rows, split, strict=True) for _ in of_text]
        else:
            ids = await _encode(caller, model.text, items, texts, max_tokens, truncate)
        prefixes = await prompt_lengths(caller, model.text, prompt, of_rows, ids)
    text_model = model.text
    numbers = _numbers(model, text_model, items, ids, kinds, token_dimensions, is_query=is_query)
    caller.reserve(numbers * NUMBER_BYTES)

    async def embed_texts() -> Computed:
        computed = await _embed_texts(caller, text_model, ids, prefixes, kinds, token_dimensions, is_query=is_query)
        if averages:
            computed.embedding = chunks.mean(computed.embedding, split)
        return computed

    if not patches:
        computed = await embed_texts()
        vectors, token_vectors = computed.embedding, computed.query_tokens or computed.tokens
        return Embeddings(vectors, sum(map(len, ids)), 0, computed.sparse, token_vectors, computed.truncated)

    async def text_vectors() -> Vectors:
        return (await embed_texts()).embedding

    # Images first: an image that cannot be read cancels the work on texts.
    of_images, of_texts = await gather(_embed_images(caller, reader, model.image, items), text_vectors())
    return Embeddings(_combine(model, items, of_texts, of_images), sum(map(len, ids)), patches)


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


def _check_kinds(served: Sequence[Model], model: Model, items: Sequence[Item], kinds: Set[Offer]) -> None:
    for item in items:
        if item.image is not None and kinds != DENSE:
            raise InvalidRequest(
                f"{item.place} contains an image; of images there are only dense vectors", param=item.where_image()
            )
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


def _numbers(
    model: Model,
    text_model: TextModel,
    items: Sequence[Item],
    ids: Sequence[list[int]],
    kinds: Set[Offer],
    token_dimensions: int | None,
    *,
    is_query: bool,
) -> int:
    """The most numbers that all vectors may hold; raises RequestTooLarge if those of tokens are too many."""
    numbers = len(items) * model.width if "dense" in kinds else 0
    if "sparse" in kinds:
        terms = text_model.outputs[SPARSE_WEIGHTS].dims[-1]
        numbers += 2 * (terms * len(ids) if terms > 0 else sum(map(len, ids)))
    if "multi_vector" in kinds:
        numbers += _token_numbers(text_model, items, ids, token_dimensions, is_query=is_query)
    return numbers


def _token_numbers(
    model: TextModel, items: Sequence[Item], ids: Sequence[list[int]], dimensions: int | None, *, is_query: bool
) -> int:
    """The most numbers of all token vectors; raises RequestTooLarge if they are too many."""
    expanded = (model.max_query_tokens or 0) if is_query else 0
    count = sum(max(len(row), expanded) for row in ids)
    size = dimensions or model.outputs[TOKENS].dims[-1]
    if count * size > MAX_TOKEN_NUMBERS:
        raise RequestTooLarge(
            f"{_field(items)} has {count} tokens, whose vectors of {size} dimensions hold {count * size} numbers; the"
            f" limit is {MAX_TOKEN_NUMBERS}",
            param=_field(items),
        )
    return count * size


def _field(items: Sequence[Item]) -> str:
    """The field that holds all items, such as "input"."""
    return items[0].place.partition("[")[0]


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


async def _split(caller: Caller, model: TextModel, items: Sequence[Item], prompt: str) -> list[list[Chunk]]:
    texts = {item.place: item.text for item in items if item.text is not None}
    return await chunks.split(
        caller, model, list(texts.values()), list(texts), Chunking(), truncate="none", prompt=prompt
    )


async def prompt_lengths(
    caller: Caller, text_model: TextModel, prompt: str, texts: Sequence[Text], ids: Sequence[list[int]]
) -> list[int]:
    """The number of ids of each text's row that belong to the prompt, for models that exclude the prompt from pooling.

    As in sentence-transformers (Transformer._get_prompt_length): the tokens of the prompt alone, with the special token
    before it and without the one after it.
    """
    if not text_model.prefix:
        return []
    (alone,) = await caller.tokenize(len(prompt), partial(text_model.tokenizer.encode, [prompt])) if prompt else [[]]
    length = len(alone) - bool(text_model.tokenizer.behind) if alone else 0
    return [min(length, len(row)) if isinstance(text, str) else 0 for text, row in zip(texts, ids, strict=True)]


async def _embed_texts(
    caller: Caller,
    model: TextModel,
    ids: Sequence[list[int]],
    prefixes: Sequence[int],
    kinds: Set[Offer],
    token_dimensions: int | None,
    *,
    is_query: bool,
) -> Computed:
    token_vectors: Wanted = "query_tokens" if is_query else "tokens"
    outputs: tuple[tuple[Offer, Wanted], ...] = (
        ("dense", "embedding"),
        ("sparse", "sparse"),
        ("multi_vector", token_vectors),
    )
    wanted = {output for kind, output in outputs if kind in kinds}

    def keep(_: int, vectors: Floats) -> Floats:
        kept: Floats = vectors[vectors.any(axis=1), :token_dimensions]
        return kept

    return await infer_texts(caller, model, [row_of(model, row, wanted) for row in ids], wanted, prefixes, keep)


async def _embed_images(caller: Caller, reader: Images, model: ImageModel | None, items: Sequence[Item]) -> Vectors:
    if model is None:
        return NO_VECTORS
    preparation = model.preparation
    images = [(item.image, item.where_image()) for item in items if item.image is not None]

    async def read(index: int) -> Pixels | Patches:
        image, place = images[index]
        return await reader.read(image, preparation, place, caller.account)

    return await infer_images(caller, model, len(images), read)
