"""Embeds texts and images."""

from collections.abc import Iterator, Sequence, Set
from contextlib import aclosing
from functools import partial

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace
from numpy.typing import NDArray

from gateway.catalog import Model, Offer, TextModel
from gateway.contract import LATE_INTERACTION, QUERY_TOKENS, SPARSE_WEIGHTS, TOKENS
from gateway.errors import InvalidRequest, RequestTooLarge
from gateway.images.preparation import Patches, Pixels
from gateway.images.reader import Images
from gateway.service import chunks, image_rows, tokens
from gateway.service.caller import Caller
from gateway.service.chunks import Chunk, Chunking
from gateway.service.contents import NO_LIMITS, Content, Picture, PixelLimits, pictures, text_of
from gateway.service.contents import check as check_content
from gateway.service.gather import gather
from gateway.service.image_batches import infer_images
from gateway.service.image_rows import Draft, Reading
from gateway.service.origins import Origin, layout
from gateway.service.text_batches import Computed, Wanted, infer_texts, joined, row_of
from gateway.service.tokens import Text
from gateway.text.tokenizer import BARE, PairFrame, Truncate
from gateway.vectors import Floats, Sparse, normalize

Vectors = NDArray[np.float32]

NO_VECTORS = np.empty((0, 0), np.float32)
NOWHERE = np.empty(0, np.intp)
DENSE: frozenset[Offer] = frozenset({"dense"})
MAX_TOKEN_NUMBERS = 2**24
"""Maximum number of numbers in all token vectors of a call: 64 MiB of floats, and up to four times as much JSON."""
NUMBER_BYTES = 18
"""What a number of a response takes in memory: 4 as a float, and up to 14 as JSON."""


class Item(Struct, frozen=True, gc=False):
    """The input of one vector: a text, an image, or both; or texts and images in the order of the client."""

    place: str
    """The item's field in error messages, such as "input[3]"."""
    text: Text | None = None
    image: str | None = None
    """A data: URI, base64 or an http(s) URL."""
    image_place: str = ""
    """The image's field in error messages, if it is not "input[3].image"."""
    content: Content = ()
    """Instead of text and image."""

    @staticmethod
    def of(place: str, given: str | Content) -> "Item":
        """The item of a text or of a content."""
        return Item(place, given) if isinstance(given, str) else Item(place, content=given)

    @property
    def has_image(self) -> bool:
        return self.image is not None or (
            bool(self.content) and any(isinstance(part, Picture) for part in self.content)
        )

    @property
    def parts(self) -> Content:
        """Texts and images, in the order in which a model reads them together."""
        if self.content:
            return self.content
        text = [self.text] if isinstance(self.text, str) else []
        return [*text, Picture(self.image, self.where_image())] if self.image is not None else text

    def where_image(self) -> str:
        """The image's field in error messages."""
        return self.image_place or f"{self.place}.image"


class Embeddings(Struct, frozen=True):
    """The result of one call."""

    vectors: Vectors
    """[n, d], in the order of the items; not normalized, except those of items with text and image. [0, 0] if dense
    vectors are not wanted."""
    text_tokens: int
    """Tokens of all texts, including special tokens and the model's prompt, excluding truncated ones. Tokens that stand
    for patches of images are not counted."""
    image_tokens: int
    """Patches of all images."""
    sparse: list[Sparse] = field(default_factory=list)
    """The sparse vector of each item, if wanted."""
    tokens: list[Floats] = field(default_factory=list)
    """The token vectors of each item, [L, d], if wanted; not normalized."""
    origins: list[Origin] = field(default_factory=list)
    """What the token vectors of each item are of, if wanted."""
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
    special_tokens: bool = True,
    pixels: PixelLimits = NO_LIMITS,
) -> Embeddings:
    """Embed items. An item with text and image gets one vector: what the model computes of both together or, if it has
    one Triton model for each, the normalized weighted mean of both unit vectors.

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
        special_tokens: whether to put the tokenizer's special tokens around texts. Not with `averages`.
        pixels: limits for images, for models that take images of any size.

    Raises:
        GatewayError: InvalidRequest, RequestTooLarge, TokenizerFailed, or what `batches.infer` raises.
    """
    items = [_separate(model, item) if item.content else item for item in items]
    _check_kinds(served, model, items, kinds)
    if pixels != NO_LIMITS and (model.text is None or model.text.images is None) and any(item.image for item in items):
        raise InvalidRequest(
            f"model {model.name!r} does not support min_pixels and max_pixels",
            param=pixels.where + ("max_pixels" if pixels.min_pixels is None else "min_pixels"),
        )
    call = _Call(caller, reader, model, items, prompt, truncate, max_tokens, kinds, is_query, token_dimensions)
    if model.text is None or model.text.chat is None:
        return await _embed_apart(call, averages=averages, frame=None if special_tokens else BARE)
    if not special_tokens:
        raise InvalidRequest(
            f"add_special_tokens must not be false for model {model.name!r}, whose template has special tokens",
            param="add_special_tokens",
        )
    if averages:
        raise InvalidRequest(
            f"enable_chunked_processing is not supported by model {model.name!r}, which puts texts into a template",
            param="enable_chunked_processing",
        )
    if any(item.has_image for item in items):
        if is_query and model.text.role == LATE_INTERACTION:
            raise InvalidRequest(f"queries of model {model.name!r} are texts without images", param=_field(items))
        return await _embed_together(call, Reading.of(caller, reader, model.text, pixels, _first_image(items)))
    frame = await tokens.template_frame(caller, model.text, prompt, is_query=is_query)
    return await _embed_apart(replace(call, prompt=""), frame=frame)


class _Call(Struct, frozen=True):
    """The arguments of `embed`, with the items as the model reads them."""

    caller: Caller
    reader: Images
    model: Model
    items: Sequence[Item]
    prompt: str
    truncate: Truncate
    max_tokens: int | None
    kinds: Set[Offer]
    is_query: bool
    token_dimensions: int | None

    @property
    def wants_query_tokens(self) -> bool:
        """Whether token vectors are those of queries, which late-interaction models compute in another way."""
        role = self.model.text.role if self.model.text is not None else None
        return self.is_query and role == LATE_INTERACTION and "multi_vector" in self.kinds


async def _embed_apart(call: _Call, *, averages: bool = False, frame: PairFrame | None = None) -> Embeddings:
    """Embed items whose texts and images no model reads together; `frame` replaces the special tokens around texts."""
    caller, model, items, prompt = call.caller, call.model, call.items, call.prompt
    texts = [_prompted(prompt, item.text) for item in items if item.text is not None]
    caller.check(model.text, sum(map(tokens.estimate, texts)))
    most = model.image.patches * sum(item.image is not None for item in items) if model.image else 0
    caller.check(model.image, most)
    patches: list[int] = []
    if model.text is None:
        caller.reserve(len(items) * model.width * NUMBER_BYTES)
        of_images = await _embed_images(call, patches)
        return Embeddings(of_images, 0, sum(patches))
    text_model = model.text
    if call.wants_query_tokens and QUERY_TOKENS not in text_model.outputs:
        raise InvalidRequest(f"model {model.name!r} has no token vectors of queries", param=_field(items))
    with caller.timings.stage("tokenize"):
        split: list[list[Chunk]] = []
        of_rows = [item.text for item in items if item.text is not None]
        if averages:
            split = await _split(caller, text_model, items, prompt)
            ids = [chunk.row for of_text in split for chunk in of_text]
            of_rows = [text for text, of_text in zip(of_rows, split, strict=True) for _ in of_text]
        else:
            places = [item.place for item in items if item.text is not None]
            ids = await _encode(call, text_model, texts, places, frame)
        prefixes = await prompt_lengths(caller, text_model, prompt, of_rows, ids, frame)
    caller.reserve(_numbers(call, text_model, len(items), ids) * NUMBER_BYTES)

    async def embed_texts() -> Computed:
        computed = await _embed_texts(call, text_model, ids, prefixes)
        if averages:
            computed.embedding = chunks.mean(computed.embedding, split)
        return computed

    if not most:
        computed = await embed_texts()
        vectors, token_vectors = computed.embedding, computed.query_tokens or computed.tokens
        origins = [Origin(row, places) for row, places in zip(ids, computed.places, strict=False)]
        return Embeddings(vectors, sum(map(len, ids)), 0, computed.sparse, token_vectors, origins, computed.truncated)

    async def text_vectors() -> Vectors:
        return (await embed_texts()).embedding

    # Images first: an image that cannot be read cancels the work on texts.
    of_images, of_texts = await gather(_embed_images(call, patches), text_vectors())
    return Embeddings(_combine(model, items, of_texts, of_images), sum(map(len, ids)), sum(patches))


async def _embed_together(call: _Call, reading: Reading) -> Embeddings:
    """Embed items, some of which have images, with a model that reads texts and images together."""
    caller, text_model, items = call.caller, reading.model, call.items
    for item in items:
        check_content(text_model, item.parts, item.place)
    drafts = await _drafts(call, reading)
    caller.check(
        text_model, sum(len(row) if isinstance(row, list) else reading.estimate(row.content) for row in drafts)
    )
    parts: list[Computed] = []
    origins: list[Origin] = []
    ids: list[list[int]] = []
    reserved = text_tokens = patches = 0
    limit = min(text_model.max_tokens, call.max_tokens or text_model.max_tokens)
    async with aclosing(image_rows.windows(reading, drafts, limit=limit, truncate=call.truncate)) as windows:
        async for rows in windows:
            fresh = [row.ids for row in rows]
            ids += fresh
            numbers = _numbers(call, text_model, len(ids), ids)  # of all windows: the limit is for the call
            caller.reserve((numbers - reserved) * NUMBER_BYTES)
            reserved = numbers
            computed = await _embed_texts(call, text_model, fresh, [], [row.images for row in rows])
            parts.append(computed)
            for row, places in zip(rows, computed.places, strict=False):
                origins.append(Origin(row.ids, places, [layout(image) for image in row.images], reading.images))
            text_tokens += sum(row.text_tokens for row in rows)
            patches += sum(row.patches for row in rows)
    computed = joined(parts)
    return Embeddings(
        computed.embedding, text_tokens, patches, computed.sparse, computed.tokens, origins, computed.truncated
    )


async def _drafts(call: _Call, reading: Reading) -> list[Draft | list[int]]:
    """The row of each item, with the ids of those that are sent as token ids."""
    text_model = reading.model
    around = partial(reading.chat.around, is_query=call.is_query, prompt=call.prompt)
    given = {item.place: item.text for item in call.items if isinstance(item.text, list)}
    rows: Iterator[list[int]] = iter(())
    if given:
        frame = await tokens.template_frame(call.caller, text_model, call.prompt, is_query=call.is_query)
        rows = iter(await _encode(call, text_model, [*given.values()], [*given], frame))
    return [
        next(rows) if isinstance(item.text, list) else Draft(item.place, item.parts, *around(has_images=item.has_image))
        for item in call.items
    ]


def _first_image(items: Sequence[Item]) -> str:
    return next(picture.place for item in items for picture in pictures(item.parts))


def _separate(model: Model, item: Item) -> Item:
    """An item with a content, as its text or image if it has only one, or the model does not read several together.

    Raises:
        InvalidRequest: there are several texts or several images, but the model does not read them together.
    """
    if model.text is not None and model.text.images is not None:
        return item if item.has_image else Item(item.place, text_of(item.content))
    texts = [part for part in item.content if isinstance(part, str)]
    images = [part for part in item.content if isinstance(part, Picture)]
    if len(texts) > 1 or len(images) > 1:
        raise InvalidRequest(
            f"{item.place} may hold only one text and one image with model {model.name!r}", param=item.place
        )
    place = images[0].place if images else ""
    return Item(item.place, texts[0] if texts else None, images[0].image if images else None, place)


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
    if model.text is not None and model.text.images is not None:
        for item in items:
            if not (item.text or item.image or item.content):
                raise _empty(item, model)
        return
    for item in items:
        if item.image is not None and kinds != DENSE:
            raise InvalidRequest(
                f"{item.place} contains an image; of images there are only dense vectors", param=item.where_image()
            )
        if item.image is not None and model.image is None:
            names = ", ".join(other.name for other in served if other.accepts_images) or "none"
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
            raise _empty(item, model)


def _empty(item: Item, model: Model) -> InvalidRequest:
    """Some clients ask for the dimensions of a model by an empty text."""
    return InvalidRequest(
        f"{item.place} is empty; send at least one character (model {model.name!r} has {model.width} dimensions)",
        param=item.place,
    )


def _numbers(call: _Call, model: TextModel, count: int, ids: Sequence[list[int]]) -> int:
    """The most numbers that all vectors of `count` items may hold, given the ids of their texts.

    Raises:
        RequestTooLarge: token vectors hold too many.
    """
    numbers = count * call.model.width if "dense" in call.kinds else 0
    if "sparse" in call.kinds:
        terms = model.outputs[SPARSE_WEIGHTS].dims[-1]
        numbers += 2 * (terms * len(ids) if terms > 0 else sum(map(len, ids)))
    if "multi_vector" in call.kinds:
        numbers += _token_numbers(call, model, ids)
    return numbers


def _token_numbers(call: _Call, model: TextModel, ids: Sequence[list[int]]) -> int:
    """The most numbers of all token vectors; raises RequestTooLarge if they are too many."""
    expanded = (model.max_query_tokens or 0) if call.wants_query_tokens else 0
    count = sum(max(len(row), expanded) for row in ids)
    size = call.token_dimensions or model.outputs[TOKENS].dims[-1]
    if count * size > MAX_TOKEN_NUMBERS:
        field = _field(call.items)
        raise RequestTooLarge(
            f"{field} has {count} tokens, whose vectors of {size} dimensions hold {count * size} numbers; the limit is"
            f" {MAX_TOKEN_NUMBERS}",
            param=field,
        )
    return count * size


def _field(items: Sequence[Item]) -> str:
    """The field that holds all items, such as "input"."""
    return items[0].place.partition("[")[0]


def _prompted(prompt: str, text: Text) -> Text:
    return prompt + text if isinstance(text, str) else text


async def _encode(
    call: _Call, model: TextModel, texts: Sequence[Text], places: Sequence[str], frame: PairFrame | None
) -> list[list[int]]:
    limits = (model.max_tokens, call.max_tokens, model.max_query_tokens if call.wants_query_tokens else None)
    limit = min(filter(None, limits))
    if frame is not None and places:
        limit = tokens.room(model, frame, limit, places[0])
    return await tokens.encode(call.caller, model, texts, places, limit, truncate=call.truncate, frame=frame)


async def _split(caller: Caller, model: TextModel, items: Sequence[Item], prompt: str) -> list[list[Chunk]]:
    texts = {item.place: item.text for item in items if item.text is not None}
    return await chunks.split(
        caller, model, list(texts.values()), list(texts), Chunking(), truncate="none", prompt=prompt
    )


async def prompt_lengths(
    caller: Caller,
    text_model: TextModel,
    prompt: str,
    texts: Sequence[Text],
    ids: Sequence[list[int]],
    frame: PairFrame | None = None,
) -> list[int]:
    """The number of ids of each text's row that belong to the prompt, for models that exclude the prompt from pooling.

    As in sentence-transformers (Transformer._get_prompt_length): the tokens of the prompt alone, with the special token
    before it and without the one after it.
    """
    if not text_model.prefix:
        return []
    encode = partial(text_model.tokenizer.encode, [prompt], frame)
    (alone,) = await caller.tokenize(len(prompt), encode) if prompt else [[]]
    length = len(alone) - bool(frame is None and text_model.tokenizer.behind) if alone else 0
    return [min(length, len(row)) if isinstance(text, str) else 0 for text, row in zip(texts, ids, strict=True)]


async def _embed_texts(
    call: _Call,
    model: TextModel,
    ids: Sequence[list[int]],
    prefixes: Sequence[int],
    images: Sequence[Sequence[Patches]] = (),
) -> Computed:
    token_vectors: Wanted = "query_tokens" if call.wants_query_tokens else "tokens"
    outputs: tuple[tuple[Offer, Wanted], ...] = (
        ("dense", "embedding"),
        ("sparse", "sparse"),
        ("multi_vector", token_vectors),
    )
    wanted = {output for kind, output in outputs if kind in call.kinds}

    places = [NOWHERE] * len(ids) if "multi_vector" in call.kinds else []

    def keep(row: int, vectors: Floats) -> Floats:
        places[row] = np.flatnonzero(vectors.any(axis=1))
        kept: Floats = vectors[places[row], : call.token_dimensions]
        return kept

    rows = [row_of(model, row, wanted) for row in ids]
    computed = await infer_texts(call.caller, model, rows, wanted, prefixes, keep, images)
    computed.places = places
    return computed


async def _embed_images(call: _Call, patches: list[int]) -> Vectors:
    """The vectors of all images. The patches of each are added to a list, in any order."""
    model = call.model.image
    if model is None:
        return NO_VECTORS
    preparation, of_each = model.preparation, model.patches
    images = [(item.image, item.where_image()) for item in call.items if item.image is not None]

    async def read(index: int) -> Pixels | Patches:
        image, place = images[index]
        prepared = await call.reader.read(image, preparation, place, call.caller.account)
        patches.append(len(prepared.pixels) if isinstance(prepared, Patches) else of_each)
        return prepared

    return await infer_images(call.caller, model, len(images), read)
