"""What the routes share to find a model, embed and rank. Each function notes its call in the request's record."""

from collections.abc import Sequence, Set
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial

from gateway import vectors
from gateway.catalog import VECTORS, Model, Offer, TextModel
from gateway.contract import LATE_INTERACTION
from gateway.errors import InvalidRequest, ModelNotFound, RequestTooLarge
from gateway.routes.http import Request
from gateway.routes.late_chunking import Document
from gateway.service import hybrid, late_chunking, prompts
from gateway.service.caller import Caller
from gateway.service.chunks import Chunking
from gateway.service.classify import Classification, Input, classify
from gateway.service.contents import NO_LIMITS, Content, PixelLimits, pictures, text_of
from gateway.service.embed import DENSE, Embeddings, Item, embed
from gateway.service.gather import prefetch
from gateway.service.hybrid import Weights
from gateway.service.image_pairs import ContentPair, score_contents
from gateway.service.image_rows import Reading
from gateway.service.late_chunking import EmbeddedParts
from gateway.service.prompts import SUFFIXES
from gateway.service.rerank import Ranking, rerank, rerank_contents
from gateway.service.score import PairScores, TextPair, score_pairs
from gateway.service.tokens import MAX_TOKENS, estimate
from gateway.text.tokenizer import Truncate

CONCURRENT_DOCUMENTS = 8
"""How many documents of a request for late chunking are computed at the same time."""

LATEST = ":latest"
"""What Ollama puts behind names that have no tag."""


def caller(request: Request) -> Caller:
    """The caller of a request whose body has been read. From now on, the work stops if the client disconnects."""
    state = request.state
    gateway = state["gateway"]
    state["presence"].watch(request.receive)
    return Caller(
        gateway.calls,
        gateway.queues,
        gateway.threads,
        state["account"],
        state["record"].timings,
        state["response"].grow,
        None if state["account"].is_background else gateway.cache,  # it would displace what others ask for
    )


def find_model(
    request: Request, name: str | None, offers: Set[Offer], default_offers: Set[Offer] = frozenset()
) -> Model:
    """Find the model that a request names, with or without Ollama's tag, and record it; see `Catalog.find`."""
    catalog = request.state["gateway"].catalog
    try:
        model = catalog.find(name, offers, default_offers)
    except ModelNotFound:
        if name is None or not name.endswith(LATEST):
            raise
        model = catalog.find(name.removesuffix(LATEST), offers, default_offers)
    request.state["record"].model = model.name
    return model


def find_model_and_purpose(
    request: Request, name: str | None, offers: Set[Offer], default_offers: Set[Offer] = frozenset()
) -> tuple[Model, str | None]:
    """Find the model that a request names, and the purpose if the name ends in one of prompts.SUFFIXES."""
    try:
        return find_model(request, name, offers, default_offers), None
    except ModelNotFound:
        for suffix in SUFFIXES:
            if name is not None and name.endswith(suffix):
                with suppress(ModelNotFound):
                    return find_model(request, name.removesuffix(suffix), offers), suffix.removeprefix("-")
        raise


def find_ranker(request: Request, name: str | None) -> TextModel:
    """Find the model that a request names to rank texts; raises the errors of `Catalog.find`."""
    return text_model(find_model(request, name, {"rerank"}))


def text_model(model: Model) -> TextModel:
    """The text model of a model; raises ModelNotFound if it accepts only images."""
    if model.text is None:
        raise ModelNotFound(f"model {model.name!r} accepts only images", param="model")
    return model.text


def find_classifier(request: Request, name: str | None) -> TextModel:
    """Find the model that a request names to classify texts, or pairs of texts if it is a cross-encoder.

    Raises the errors of `Catalog.find`.
    """
    return text_model(find_model(request, name, {"classify"}))


async def classify_inputs(
    request: Request,
    model: TextModel,
    inputs: Sequence[Input],
    *,
    truncate: Truncate,
    max_tokens: int | None = None,
    raw: bool = False,
    special_tokens: bool = True,
) -> Classification:
    """Classify for a request, and record it.

    Args:
        request: its body has been read.
        model: from `find_classifier`.
        inputs: texts and pairs of texts.
        truncate: how to truncate inputs over the limit.
        max_tokens: a limit lower than the model's.
        raw: whether to return logits as scores.
        special_tokens: whether to put the tokenizer's special tokens around texts.

    Raises:
        GatewayError: see `classify`.
    """
    found = await classify(
        caller(request),
        model,
        inputs,
        truncate=truncate,
        max_tokens=max_tokens,
        raw=raw,
        special_tokens=special_tokens,
    )
    record_usage(request, len(inputs), found.tokens)
    return found


def check_offers(request: Request, model: Model, offers: Set[Offer], place: str) -> None:
    """Raise InvalidRequest if a model lacks some of these."""
    for offer in sorted(offers - model.offers):
        served = request.state["gateway"].catalog.models
        names = ", ".join(other.name for other in served if offer in other.offers) or "none"
        own = " and ".join(sorted(VECTORS & model.offers)) or "no"
        raise InvalidRequest(
            f"{place}: model {model.name!r} computes {own} vectors, not {offer}; models that compute {offer} vectors:"
            f" {names}",
            param=place,
        )


async def embed_items(
    request: Request,
    model: Model,
    items: Sequence[Item],
    *,
    purpose: str | None,
    place: str,
    truncate: Truncate,
    max_tokens: int | None = None,
    instruction: str | None = None,
    kinds: Set[Offer] = DENSE,
    token_dimensions: int | None = None,
    averages: bool = False,
    special_tokens: bool = True,
    pixels: PixelLimits = NO_LIMITS,
) -> Embeddings:
    """Embed for a request, and record it.

    Args:
        request: its body has been read.
        model: an embedding model.
        items: texts, images, and pairs of both.
        purpose: of the texts, such as "query"; see `prompts`.
        place: the field that the purpose was sent in.
        truncate: how to truncate texts over the limit.
        max_tokens: a limit lower than the model's.
        instruction: replaces the one in the model's prompt.
        kinds: kinds of vectors that the model offers.
        token_dimensions: how many dimensions of token vectors to keep; all by default.
        averages: whether to split texts over the limit and average the vectors of their chunks.
        special_tokens: whether to put the tokenizer's special tokens around texts.
        pixels: limits for images, for models that take images of any size.

    Raises:
        GatewayError: see `prompts.choose` and `embed`; or there is an instruction, but the model accepts only images.
    """
    gateway = request.state["gateway"]
    if instruction is not None and model.text is None:
        raise InvalidRequest(f"instruction: model {model.name!r} accepts only images", param=prompts.FIELD)
    side = "query" if purpose is None and instruction is not None else purpose
    model = prompts.for_purpose(model, side)
    if model.text is not None and model.text.role == LATE_INTERACTION:
        purpose = side or "document"  # it has no third kind of texts
    embedded = await embed(
        caller(request),
        gateway.images,
        gateway.catalog.models,
        model,
        items,
        prompt=prompts.choose(model.text, purpose, place, instruction) if model.text is not None else "",
        truncate=truncate,
        max_tokens=max_tokens,
        kinds=kinds,
        is_query=prompts.is_query(purpose),
        token_dimensions=token_dimensions,
        averages=averages,
        special_tokens=special_tokens,
        pixels=pixels,
    )
    record_usage(request, len(items), embedded.text_tokens + embedded.image_tokens)
    request.state["record"].sparse_truncated = embedded.truncated
    request.state["record"].images = sum(map(_images, items)) or None
    return embedded


def _images(item: Item) -> int:
    return len(pictures(item.content)) if item.content else item.image is not None


async def embed_documents(
    request: Request,
    model: Model,
    documents: Sequence[Document],
    *,
    places: Sequence[str],
    purpose: str | None,
    place: str,
    in_windows: bool,
    instruction: str | None = None,
) -> list[EmbeddedParts]:
    """Embed the parts of each document by late chunking for a request, and record it.

    Args:
        request: its body has been read.
        model: an embedding model.
        documents: any texts with their parts.
        places: the field of each document in error messages.
        purpose: of the documents, such as "document"; see `prompts`.
        place: the field that the purpose was sent in.
        in_windows: whether to compute documents over the limit in windows.
        instruction: replaces the one in the model's prompt.

    Raises:
        GatewayError: see `prompts.choose`, `late_chunking.check` and `late_chunking.embed_parts`; or
            RequestTooLarge, if the documents have more than MAX_TOKENS in total.
    """
    model = prompts.for_purpose(model, purpose)
    text_model = late_chunking.check(request.state["gateway"].catalog.models, model)
    prompt = prompts.choose(text_model, purpose, place, instruction)
    work = caller(request)
    estimated = sum(estimate(prompt + document.text) for document in documents)
    _check_total(documents, estimated)
    work.check(text_model, estimated)
    calls = [
        partial(
            late_chunking.embed_parts,
            work,
            text_model,
            document.text,
            document.parts,
            prompt=prompt,
            place=own_place,
            part_places=document.places,
            in_windows=in_windows,
        )
        for document, own_place in zip(documents, places, strict=True)
    ]
    found: list[EmbeddedParts] = []
    tokens = 0
    async with aclosing(prefetch(calls, CONCURRENT_DOCUMENTS)) as computed:
        async for one in computed:
            found.append(one)
            tokens += one.embedded.text_tokens
            _check_total(documents, tokens)
    record_usage(request, sum(len(one.parts) for one in found), tokens)
    return found


def _check_total(documents: Sequence[Document], tokens: int) -> None:
    """Raise RequestTooLarge if several documents have this many tokens. The service limits each."""
    if len(documents) > 1 and tokens > MAX_TOKENS:
        raise RequestTooLarge(f"the documents have over {MAX_TOKENS} tokens in all")


async def rank_texts(
    request: Request,
    model: TextModel,
    query: str,
    documents: Sequence[str],
    *,
    place: str = "documents",
    truncate: Truncate,
    max_tokens: int | None = None,
    raw: bool = False,
    instruction: str | None = None,
    chunking: Chunking | None = None,
    weights: Weights | None = None,
) -> Ranking:
    """Rank for a request, and record it.

    Args:
        request: its body has been read.
        model: from `find_ranker`.
        query: never truncated.
        documents: texts to rank by relevance to the query.
        place: the field of the documents in error messages.
        truncate: how to truncate documents over the limit.
        max_tokens: a limit for each document, lower than the model's.
        raw: whether to return a cross-encoder's logits as scores.
        instruction: replaces the one in the model's template or prompt.
        chunking: how to split documents into chunks, the best of which counts.
        weights: of the scores of several modes, for models that have them.

    Raises:
        GatewayError: see `hybrid.check` and `rerank`.
    """
    hybrid.check(request.state["gateway"].catalog.models, model, weights or {})
    ranking = await rerank(
        caller(request),
        model,
        query,
        documents,
        place=place,
        truncate=truncate,
        max_tokens_per_document=max_tokens,
        raw=raw,
        instruction=instruction,
        chunking=chunking,
        weights=weights,
    )
    record_usage(request, len(documents), ranking.tokens)
    return ranking


async def rank_contents(
    request: Request,
    model: TextModel,
    query: str | Content,
    documents: Sequence[str | Content],
    *,
    place: str = "documents",
    truncate: Truncate,
    max_tokens: int | None = None,
    raw: bool = False,
    instruction: str | None = None,
    pixels: PixelLimits = NO_LIMITS,
) -> Ranking:
    """Rank for a request whose query or documents have images, and record it.

    Args:
        request: its body has been read.
        model: from `find_ranker`.
        query: never truncated.
        documents: texts and contents to rank by relevance to the query.
        place: the field of the documents in error messages.
        truncate: how to truncate documents over the limit.
        max_tokens: a limit lower than the model's.
        raw: whether to return a cross-encoder's logits as scores.
        instruction: replaces the one in the model's template or prompt.
        pixels: limits for images.

    Raises:
        GatewayError: see `Reading.of` and `rerank_contents`.
    """
    ranking = await rerank_contents(
        _reading(request, model, [query, *documents], pixels, raw=raw),
        query,
        documents,
        place=place,
        truncate=truncate,
        max_tokens=max_tokens,
        instruction=instruction,
    )
    record_usage(request, len(documents), ranking.tokens + ranking.image_tokens)
    return ranking


async def rank_texts_or_contents(
    request: Request,
    model: TextModel,
    query: str | Content,
    documents: Sequence[str | Content],
    *,
    place: str,
    truncate: Truncate,
    raw: bool = False,
    instruction: str | None = None,
) -> Ranking:
    """Rank for a request whose query and documents may have images; see `rank_texts` and `rank_contents`."""
    texts = [document for document in documents if isinstance(document, str)]
    if isinstance(query, str) and len(texts) == len(documents):
        return await rank_texts(
            request, model, query, texts, place=place, truncate=truncate, raw=raw, instruction=instruction
        )
    return await rank_contents(
        request, model, query, documents, place=place, truncate=truncate, raw=raw, instruction=instruction
    )


async def rank_by_cosine(
    request: Request,
    model: Model,
    query: str | Content,
    documents: Sequence[str | Content],
    *,
    place: str = "documents",
    truncate: Truncate,
    max_tokens: int | None = None,
    instruction: str | None = None,
    pixels: PixelLimits = NO_LIMITS,
) -> Ranking:
    """Rank by the cosine of an embedding model's vectors for a request, and record it.

    Args:
        request: its body has been read.
        model: an embedding model.
        query: embedded with the model's prompt for queries. Never truncated.
        documents: embedded with the model's prompt for documents.
        place: the field of the documents in error messages.
        truncate: how to truncate documents over the limit.
        max_tokens: a limit for each document, lower than the model's.
        instruction: replaces the one in the model's query prompt.
        pixels: limits for images.

    Raises:
        GatewayError: see `embed_items`.
    """
    of_query = await embed_items(
        request,
        model,
        [Item.of("query", query)],
        purpose="query",
        place="",
        truncate="none",
        instruction=instruction,
        pixels=pixels,
    )
    images = request.state["record"].images or 0
    embedded = await embed_items(
        request,
        model,
        [Item.of(f"{place}[{i}]", document) for i, document in enumerate(documents)],
        purpose="document",
        place="",
        truncate=truncate,
        max_tokens=max_tokens,
        pixels=pixels,
    )
    (unit,) = vectors.normalize(of_query.vectors)
    ranking = Ranking.of(
        (vectors.normalize(embedded.vectors) @ unit).tolist(),
        of_query.text_tokens + embedded.text_tokens,
        of_query.image_tokens + embedded.image_tokens,
    )
    record_usage(request, len(documents), ranking.tokens + ranking.image_tokens)
    request.state["record"].images = (request.state["record"].images or 0) + images or None
    return ranking


def _reading(
    request: Request, model: TextModel, given: Sequence[str | Content], pixels: PixelLimits, *, raw: bool
) -> Reading:
    """How to read the images of a request with a model; records how many there are."""
    found = dict.fromkeys(picture for content in given for picture in pictures(content))
    request.state["record"].images = len(found)
    model = replace(model, activation="none") if raw else model
    return Reading.of(caller(request), request.state["gateway"].images, model, pixels, next(iter(found)).place)


async def score_inputs(
    request: Request,
    model: TextModel,
    pairs: Sequence[ContentPair],
    *,
    truncate: Truncate,
    max_tokens: int | None = None,
    raw: bool = False,
    pixels: PixelLimits = NO_LIMITS,
) -> PairScores:
    """Score pairs for a request, and record it.

    Args:
        request: its body has been read.
        model: the text model of a rerank model.
        pairs: queries with their documents, of which some may have images.
        truncate: how to truncate documents over the limit.
        max_tokens: a limit lower than the model's.
        raw: whether to return a cross-encoder's logits as scores.
        pixels: limits for images.

    Raises:
        GatewayError: see `score_pairs`, `Reading.of` and `score_contents`.
    """
    if any(pair.has_image for pair in pairs):
        given = [content for pair in pairs for content in (pair.query, pair.document)]
        reading = _reading(request, model, given, pixels, raw=raw)
        of_contents = await score_contents(reading, pairs, truncate=truncate, max_tokens=max_tokens)
        count = sum(of_contents.query_tokens) + sum(of_contents.document_tokens) + of_contents.image_tokens
        found = PairScores(of_contents.scores, count)
    else:
        texts = [
            TextPair(text_of(pair.query), text_of(pair.document), pair.query_place, pair.document_place)
            for pair in pairs
        ]
        found = await score_pairs(caller(request), model, texts, truncate=truncate, max_tokens=max_tokens, raw=raw)
    record_usage(request, len(pairs), found.tokens)
    return found


def record_usage(request: Request, inputs: int, tokens: int) -> None:
    """Record how many inputs and tokens a request has."""
    record = request.state["record"]
    record.inputs, record.tokens = inputs, tokens
