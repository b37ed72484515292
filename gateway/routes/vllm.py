"""The API of vLLM's pooling models: /classify, /score, /pooling. /classify also answers clients of Infinity."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, cast

import numpy as np
from msgspec import Meta, Raw, Struct
from starlette.responses import Response

from gateway import vectors
from gateway.catalog import Model, Offer, TextModel
from gateway.errors import InvalidRequest, ModelNotFound
from gateway.images.processors import Area
from gateway.routes import encodings
from gateway.routes.body import read
from gateway.routes.calls import (
    classify_inputs,
    embed_items,
    find_classifier,
    find_model,
    score_inputs,
    text_model,
)
from gateway.routes.content import (
    MAX_MESSAGES,
    TEMPLATES,
    InputItem,
    Message,
    PixelBounds,
    check_alone,
    check_source,
    read_each,
    read_item,
    read_messages,
    read_pixels,
    simple,
)
from gateway.routes.decoding import Refused
from gateway.routes.fields import IgnoredFields, PromptTokens, Side, Truncation, read_truncation, wants_logits
from gateway.routes.http import OCTETS, Request, large_json_response
from gateway.routes.operation import Operation
from gateway.routes.packing import (
    EncodingFormat,
    Endianness,
    FloatType,
    Metadata,
    Packing,
    check_count,
    packed_response,
    packing_of,
    wants_bytes,
)
from gateway.routes.rerank import DOCUMENTS, QUERY, find_scorer
from gateway.service.classify import Classification, Input
from gateway.service.contents import Content, PixelLimits
from gateway.service.embed import DENSE, Item
from gateway.service.image_pairs import ContentPair
from gateway.service.text_batches import MAX_ROWS
from gateway.service.tokens import MAX_TOKENS, Text
from gateway.text.tokenizer import Truncate

Task = Literal["embed", "token_embed", "classify"]
CONVERSATIONS = Refused("conversations are not supported; send texts")
TEXT_1 = ("text_1", "queries", "data_1")
TEXT_2 = ("text_2", "documents", "items", "data_2")
"""vLLM's names of the fields of /score: the first text or texts of the pairs, and the second."""
OFFER_OF: Mapping[Task, Offer] = {"classify": "classify", "token_embed": "multi_vector", "embed": "dense"}
"""What a model must offer for each task of /pooling; by default, the first that it offers is done."""
Texts = str | InputItem | Annotated[list[str | InputItem], Meta(min_length=1, max_length=MAX_ROWS)]
"""One side of pairs: texts or, for models that take images, objects. An object instead of a list, whose content is a
list, has one text or image for each part, as in vLLM's API."""
Inputs = str | Annotated[list[str | int | list[int | str]], Meta(min_length=1, max_length=MAX_TOKENS)]
"""A text, the token ids of one, or a list of texts, pairs of texts and lists of token ids."""


class PoolingModelRequest(IgnoredFields, forbid_unknown_fields=True, kw_only=True):
    """The fields that all of these requests share."""

    model: str | None = None
    """A name or alias from /v1/models. Default: the default model of the path."""
    truncate: bool | Truncation | None = None
    """Whether, and at which end, to truncate texts over the model's limit. Otherwise they are an error."""
    truncate_prompt_tokens: PromptTokens | None = None
    """Truncate texts to this many tokens or the model's limit, whichever is lower. -1 for the model's limit."""
    truncation_side: Side | None = None
    """Which end of texts over the limit to cut off. Default: right."""
    use_activation: bool | None = None
    """Whether scores are probabilities, as the model's activation makes them of its logits, or vectors have length 1.
    Default: true."""
    activation: bool | None = None
    """An alias of use_activation."""
    softmax: bool | None = None
    """An alias of use_activation."""
    aliases: ClassVar[Mapping[str, str]] = {"activation": "use_activation", "softmax": "use_activation"}
    """vLLM's older names of a field."""
    refused: ClassVar[Mapping[str, Refused]] = TEMPLATES

    def truncation(self) -> tuple[Truncate, int | None]:
        """How to truncate texts over the limit, and a limit lower than the model's."""
        return read_truncation(self.truncate, self.truncate_prompt_tokens, self.truncation_side)


class ClassifyRequest(PoolingModelRequest, kw_only=True):
    """Texts or pairs of texts to classify."""

    input: Inputs
    """A text, token ids, or a list of texts, pairs of texts and lists of token ids."""
    raw_scores: bool | None = None
    """Infinity's field: whether scores are logits. With it, the response is Infinity's: all labels of each input, best
    first."""
    add_special_tokens: bool | None = None
    """Whether to put the tokenizer's special tokens around texts. Default: true. Pairs of texts need them."""
    refused: ClassVar[Mapping[str, Refused]] = {
        **TEMPLATES,
        "labels": Refused("a classifier has its own labels; see GET /v1/models"),
        "messages": CONVERSATIONS,
    }


class ScoreRequest(PoolingModelRequest, kw_only=True):
    """Pairs of texts to score: one text with each of several, or as many with each other."""

    text_1: Texts | None = None
    """The first text, or the first text of each pair."""
    text_2: Texts | None = None
    """The second text, or the second text of each pair."""
    queries: Texts | None = None
    """An alias of text_1."""
    documents: Texts | None = None
    """An alias of text_2."""
    items: Texts | None = None
    """An alias of text_2."""
    data_1: Texts | None = None
    """An alias of text_1."""
    data_2: Texts | None = None
    """An alias of text_2."""
    min_pixels: Area | None = None
    """Enlarge images to this many pixels, within the limits of the model. For models that take images of any size."""
    max_pixels: Area | None = None
    """Shrink images to this many pixels, within the limits of the model."""
    mm_processor_kwargs: PixelBounds | None = None
    """vLLM's place for min_pixels and max_pixels."""
    refused: ClassVar[Mapping[str, Refused]] = {
        **TEMPLATES,
        "add_special_tokens": Refused("special tokens are always added", (True,)),
        "messages": CONVERSATIONS,
        "max_tokens_per_doc": Refused("use truncate_prompt_tokens", (0,)),
        "max_tokens_per_query": Refused("use truncate_prompt_tokens", (0,)),
    }


class PoolingRequest(PoolingModelRequest, kw_only=True):
    """Texts to embed or to classify."""

    input: Inputs | None = None
    """A text, token ids, or a list of texts, lists of token ids and, for a classifier, pairs of texts. Required without
    messages."""
    messages: Annotated[list[Message], Meta(max_length=MAX_MESSAGES)] | None = None
    """Instead of input, not for a classifier: one user message with texts and images, after at most one system message,
    which is the instruction."""
    task: Task | None = None
    """What to compute: one vector for each text, one for each of its tokens, or the scores of all labels. Default: the
    first that the model has of classify, token_embed and embed."""
    encoding_format: EncodingFormat | None = None
    """How to write floats: as numbers, as base64, or as a response of nothing else, which the header `metadata`
    describes (`bytes`) or not (`bytes_only`). Default: float."""
    embed_dtype: FloatType | None = None
    """The number type of floats in base64 and bytes. Default: float32."""
    endianness: Endianness | None = None
    """Their byte order. native is little. Default: native."""
    add_special_tokens: bool | None = None
    """Whether to put the tokenizer's special tokens around texts. Default: true. Pairs of texts and models with a
    template need theirs."""
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    """Truncate vectors to this many dimensions, which the model must support, and normalize them again."""
    normalize: bool | None = None
    """An alias of use_activation."""
    min_pixels: Area | None = None
    """Enlarge images to this many pixels, within the limits of the model. For models that take images of any size."""
    max_pixels: Area | None = None
    """Shrink images to this many pixels, within the limits of the model."""
    mm_processor_kwargs: PixelBounds | None = None
    """vLLM's place for min_pixels and max_pixels."""
    aliases: ClassVar[Mapping[str, str]] = {**PoolingModelRequest.aliases, "normalize": "use_activation"}
    refused: ClassVar[Mapping[str, Refused]] = {
        **TEMPLATES,
        "data": Refused("plugins are not supported; send input"),
    }


class PoolingUsage(Struct):
    """Tokens of all texts, after truncation, including special tokens."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class Probabilities(Struct):
    """The scores of one input."""

    index: int
    label: str
    """The label with the highest score."""
    probs: list[float]
    """The scores of all labels, in the order of `labels` in /v1/models."""
    num_classes: int


class ClassifyResponse(Struct, tag_field="object", tag="list"):
    """The scores of each input, in the order of the inputs."""

    id: str
    created: int
    model: str
    data: list[Probabilities]
    usage: PoolingUsage


class LabelScore(Struct):
    """The score of a label."""

    score: float
    label: str


class InfinityClassifyResponse(Struct, tag_field="object", tag="classify"):
    """The labels of each input with their scores, best first, in the order of the inputs."""

    id: str
    created: int
    model: str
    data: list[list[LabelScore]]
    usage: PoolingUsage


class PairScore(Struct):
    """The score of a pair."""

    index: int
    object: Literal["score"]
    score: float


class ScoreResponse(Struct):
    """The scores, in the order of the pairs."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[PairScore]
    usage: PoolingUsage


class Pooled(Struct):
    """What was computed of one input."""

    index: int
    object: Literal["pooling"]
    data: Annotated[
        Raw | list[Raw],
        Meta(
            extra_json_schema={
                "anyOf": [
                    {"type": "array", "items": {"type": "number"}},
                    {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
                    {"type": "string", "description": "base64 of floats"},
                ]
            }
        ),
    ]


class PoolingResponse(Struct):
    """What was computed of each input, in the order of the inputs."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Pooled]
    usage: PoolingUsage


async def classify(request: Request) -> Response:
    """Answer POST /classify."""
    return await label(request, await read(request, ClassifyRequest))


async def label(request: Request, body: ClassifyRequest) -> Response:
    """Answer a request whose body has been read, in Infinity's format if it has Infinity's field raw_scores."""
    is_infinity = body.raw_scores is not None
    raw = wants_logits(body.raw_scores, body.use_activation)
    truncate, max_tokens = body.truncation()
    if is_infinity and body.truncate is None and truncate == "none":
        truncate = "end"
    model = find_classifier(request, body.model)
    found = await classify_inputs(
        request,
        model,
        _read_inputs(body.input),
        truncate=truncate,
        max_tokens=max_tokens,
        raw=raw,
        special_tokens=body.add_special_tokens is not False,
    )
    write = _as_infinity if is_infinity else _as_vllm
    request_id = request.state["record"].request_id
    return await large_json_response(request, lambda: write(request_id, model, found), found.scores.size)


def _as_vllm(request_id: str, model: TextModel, found: Classification) -> ClassifyResponse:
    data = [
        Probabilities(i, model.labels[best], scores, len(scores))
        for i, (best, scores) in enumerate(zip(found.scores.argmax(1).tolist(), found.scores.tolist(), strict=True))
    ]
    return ClassifyResponse(request_id, int(time.time()), model.name, data, _usage(found.tokens))


def _as_infinity(request_id: str, model: TextModel, found: Classification) -> InfinityClassifyResponse:
    data = [[LabelScore(score, label) for label, score in scored] for scored in found.labelled()]
    return InfinityClassifyResponse(request_id, int(time.time()), model.name, data, _usage(found.tokens))


def _read_inputs(given: str | list[str | int | list[int | str]]) -> list[Input]:
    """Convert every form of `input`.

    Raises:
        InvalidRequest: there are too many, or a list is neither token ids nor a pair of texts.
    """
    if isinstance(given, str):
        return [Input("input", given)]
    if {*map(type, given)} == {int}:
        return [Input("input", cast(list[int], given))]
    if len(given) > MAX_ROWS:
        raise InvalidRequest(f"input has {len(given)} items; it must have 1 to {MAX_ROWS}", param="input")
    return [_read_input(item, f"input[{i}]") for i, item in enumerate(given)]


def _read_input(item: str | int | list[int | str], place: str) -> Input:
    match item:
        case str():
            return Input(place, item)
        case [str(first), str(second)]:
            return Input(place, (first, second))
        case [_, *_] if {*map(type, item)} == {int}:
            return Input(place, cast(list[int], item))
    raise InvalidRequest(f"{place} must be a text, a pair of texts, or a list of token ids", param=place)


async def score(request: Request) -> Response:
    """Answer POST /score."""
    return await score_pairs(request, await read(request, ScoreRequest))


async def score_pairs(request: Request, body: ScoreRequest) -> Response:
    """Answer a request whose body has been read."""
    pairs = _read_pairs(body)
    truncate, max_tokens = body.truncation()
    model = _find_scorer(request, body.model)
    pixels = read_pixels(body.min_pixels, body.max_pixels, body.mm_processor_kwargs)
    if "rerank" in model.offers:
        found = await score_inputs(
            request,
            text_model(model),
            pairs,
            truncate=truncate,
            max_tokens=max_tokens,
            raw=body.use_activation is False,
            pixels=pixels,
        )
        scores, tokens = found.scores, found.tokens
    else:
        scores, tokens = await _compare(request, model, pairs, truncate, max_tokens, pixels)
    response = ScoreResponse(
        id=request.state["record"].request_id,
        object="list",
        created=int(time.time()),
        model=model.name,
        data=[PairScore(i, "score", one) for i, one in enumerate(scores)],
        usage=_usage(tokens),
    )
    return await large_json_response(request, lambda: response)


def _find_scorer(request: Request, name: str | None) -> Model:
    """The model that a request names: a reranker, or an embedding model. By default the default reranker, if any."""
    try:
        return find_scorer(request, name)
    except ModelNotFound:
        if name is not None:
            raise
        return find_model(request, None, DENSE)


def _read_pairs(body: ScoreRequest) -> list[ContentPair]:
    """The pairs of a request.

    Raises:
        InvalidRequest: a side is missing or sent twice, or the sides do not match.
    """
    (name_1, given_1), (name_2, given_2) = _side(body, TEXT_1), _side(body, TEXT_2)
    first, second = _listed(name_1, given_1), _listed(name_2, given_2)
    if len(first) not in (1, len(second)):
        raise InvalidRequest(
            f"{name_1} has {len(first)} texts and {name_2} has {len(second)}; send one text in {name_1}, or as many as"
            f" in {name_2}",
            param=name_1,
        )
    repeated = first * len(second) if len(first) == 1 else first
    return [
        ContentPair(query, document, query_place, document_place)
        for (query_place, query), (document_place, document) in zip(repeated, second, strict=True)
    ]


def _side(body: ScoreRequest, names: Sequence[str]) -> tuple[str, Texts]:
    """The field that was sent of those for one side of the pairs, and its value."""
    sent = [(name, getattr(body, name)) for name in names if getattr(body, name) is not None]
    if not sent:
        raise InvalidRequest(f"{names[0]} is required", param=names[0])
    if len(sent) > 1:
        given = " and ".join(name for name, _ in sent)
        raise InvalidRequest(f"{given} have the same meaning; send only one of them", param=sent[1][0])
    return sent[0]


def _listed(name: str, given: Texts) -> list[tuple[str, str | Content]]:
    """Texts and contents with their places."""
    if isinstance(given, InputItem) and isinstance(given.content, list):
        check_alone(given, name)
        return [*read_each(given.content, f"{name}.content").items()]
    items = {f"{name}[{i}]": item for i, item in enumerate(given)} if isinstance(given, list) else {name: given}
    return [(place, item if isinstance(item, str) else simple(read_item(item, place))) for place, item in items.items()]


async def _compare(
    request: Request,
    model: Model,
    pairs: Sequence[ContentPair],
    truncate: Truncate,
    max_tokens: int | None,
    pixels: PixelLimits,
) -> tuple[list[float], int]:
    """The cosine of each pair by an embedding model, and the number of tokens."""
    places: dict[str | Content, str] = {}
    for pair in pairs:
        places.setdefault(_key(pair.query), pair.query_place)
        places.setdefault(_key(pair.document), pair.document_place)
    items = [Item.of(place, given) for given, place in places.items()]
    embedded = await embed_items(
        request, model, items, purpose=None, place="", truncate=truncate, max_tokens=max_tokens, pixels=pixels
    )
    of = dict(zip(places, vectors.normalize(embedded.vectors), strict=True))
    cosines = [float(of[_key(pair.query)] @ of[_key(pair.document)]) for pair in pairs]
    return cosines, embedded.text_tokens + embedded.image_tokens


def _key(given: str | Content) -> str | Content:
    return given if isinstance(given, str) else tuple(given)


@dataclass(frozen=True, slots=True)
class _Found:
    """What /pooling computed."""

    rows: Callable[[], Sequence[vectors.Floats]]
    """Returns the floats of each input: [d], or [L, d] for its tokens."""
    numbers: int
    tokens: int


async def pool(request: Request) -> Response:
    """Answer POST /pooling."""
    return await compute(request, await read(request, PoolingRequest))


async def compute(request: Request, body: PoolingRequest) -> Response:
    """Answer a request whose body has been read."""
    check_source(request, body.input, body.messages)
    model = find_model(request, body.model, {OFFER_OF[body.task]} if body.task else {*OFFER_OF.values()})
    task = next(task for task, offer in OFFER_OF.items() if body.task in (None, task) and offer in model.offers)
    if task == "classify":
        if body.input is None:
            raise InvalidRequest("messages are not classified, only texts; send input", param="messages")
        inputs = _read_inputs(body.input)
        check_count(body, len(inputs))
        found = await _pool_labels(request, body, model, inputs)
    elif body.input is None:
        content, instruction = read_messages(body.messages or [])
        found = await _pool_vectors(request, body, model, [Item("messages", content=content)], task, instruction)
    else:
        items = [Item(one.place, _single(one)) for one in _read_inputs(body.input)]
        check_count(body, len(items))
        found = await _pool_vectors(request, body, model, items, task)
    request_id, created, usage = request.state["record"].request_id, int(time.time()), _usage(found.tokens)
    if wants_bytes(body):
        metadata = Metadata(request_id, created, model.name, [], usage)
        return await packed_response(request, body, found.rows, metadata, found.numbers)
    write = _as_base64 if body.encoding_format == "base64" else _as_numbers
    packing = packing_of(body)

    def build() -> PoolingResponse:
        data = [Pooled(i, "pooling", write(row, packing)) for i, row in enumerate(found.rows())]
        return PoolingResponse(request_id, "list", created, model.name, data, usage)

    return await large_json_response(request, build, found.numbers)


def _as_base64(row: vectors.Floats, packing: Packing) -> Raw:
    """All floats of an input together, as in vLLM."""
    return encodings.column(row.reshape(1, -1), "base64", packing)[0]


def _as_numbers(row: vectors.Floats, _: Packing) -> Raw | list[Raw]:
    return encodings.matrix(row, "float") if row.ndim > 1 else encodings.column(row[np.newaxis], "float")[0]


async def _pool_labels(request: Request, body: PoolingRequest, model: Model, inputs: Sequence[Input]) -> _Found:
    if body.dimensions is not None:
        raise InvalidRequest("dimensions: the scores of labels cannot be truncated", param="dimensions")
    truncate, max_tokens = body.truncation()
    found = await classify_inputs(
        request,
        text_model(model),
        inputs,
        truncate=truncate,
        max_tokens=max_tokens,
        raw=body.use_activation is False,
        special_tokens=body.add_special_tokens is not False,
    )
    return _Found(lambda: [*found.scores.astype(np.float32)], found.scores.size, found.tokens)


async def _pool_vectors(
    request: Request,
    body: PoolingRequest,
    model: Model,
    items: Sequence[Item],
    task: Task,
    instruction: str | None = None,
) -> _Found:
    per_token = task == "token_embed"
    kind = OFFER_OF[task]
    size, width = (encodings.size(model, dimensions, kind=kind) for dimensions in (body.dimensions, None))
    truncate, max_tokens = body.truncation()
    embedded = await embed_items(
        request,
        model,
        items,
        purpose=None,
        place="",
        truncate=truncate,
        max_tokens=max_tokens,
        kinds={kind},
        token_dimensions=size if per_token else None,
        instruction=instruction,
        special_tokens=body.add_special_tokens is not False,
        pixels=read_pixels(body.min_pixels, body.max_pixels, body.mm_processor_kwargs),
    )
    found = embedded.tokens if per_token else [embedded.vectors]
    normalizes = body.use_activation is not False or size < width

    def rows() -> Sequence[vectors.Floats]:
        ready = [vectors.normalize(one[:, :size]) if normalizes else one for one in found]
        return ready if per_token else [*ready[0]]

    return _Found(rows, sum(one.size for one in found), embedded.text_tokens + embedded.image_tokens)


def _single(one: Input) -> Text:
    if isinstance(one.content, tuple):
        raise InvalidRequest(f"{one.place} is a pair of texts; only task classify takes pairs", param=one.place)
    return one.content


def _usage(tokens: int) -> PoolingUsage:
    return PoolingUsage(tokens, tokens)


SCORE = Operation(
    "post",
    "/score",
    "score",
    "Score pairs of texts (vLLM)",
    score,
    ScoreResponse,
    ScoreRequest,
    {"text_1": QUERY, "text_2": DOCUMENTS},
)
OPERATIONS = (
    Operation(
        "post",
        "/classify",
        "classify",
        "Classify texts or pairs of texts (vLLM, Infinity)",
        classify,
        ClassifyResponse | InfinityClassifyResponse,
        ClassifyRequest,
        {"input": DOCUMENTS},
    ),
    SCORE,
    SCORE.also("/v1/score", "WithVersion"),
    Operation(
        "post",
        "/pooling",
        "pool",
        "Embed or classify texts (vLLM)",
        pool,
        PoolingResponse,
        PoolingRequest,
        {"input": DOCUMENTS, "task": "embed"},
        also_gives=OCTETS,
    ),
)
