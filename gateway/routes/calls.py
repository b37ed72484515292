"""What routes ask of the service: find a model, embed, rank. Each call is noted in the request's record."""

from collections.abc import Sequence
from contextlib import suppress

from gateway.catalog import Model, TextModel
from gateway.contract import RERANK_ROLES
from gateway.errors import InvalidRequest, ModelNotFound
from gateway.routes.http import Request
from gateway.service import prompts
from gateway.service.caller import Caller
from gateway.service.embed import Embeddings, Item, embed
from gateway.service.prompts import SUFFIXES
from gateway.service.rerank import Ranking, rerank
from gateway.text.tokenizer import Truncate


def caller(request: Request) -> Caller:
    """On whose behalf a request is answered; its body has been read."""
    state = request.state
    gateway = state["gateway"]
    state["presence"].begin(request.receive)
    return Caller(gateway.triton, gateway.queues, gateway.threads, state["account"], state["record"].timings)


def find_model(request: Request, name: str | None, roles: frozenset[str]) -> Model:
    """The model that a request names, noted for its line in the log; raises what `Catalog.find` does."""
    model = request.state["gateway"].catalog.find(name, roles)
    request.state["record"].model = model.name
    return model


def find_model_for(request: Request, name: str | None, roles: frozenset[str]) -> tuple[Model, str | None]:
    """The model that a request names, and what its texts are for where the name ends in one of prompts.SUFFIXES."""
    try:
        return find_model(request, name, roles), None
    except ModelNotFound:
        for suffix in SUFFIXES:
            if name is not None and name.endswith(suffix):
                with suppress(ModelNotFound):
                    return find_model(request, name.removesuffix(suffix), roles), suffix.removeprefix("-")
        raise


def find_ranker(request: Request, name: str | None) -> TextModel:
    """The model that ranks texts, by the name in a request; raises what `Catalog.find` does."""
    model = find_model(request, name, RERANK_ROLES)
    if model.text is None:
        raise ModelNotFound(f"model {model.name!r} ranks no texts", param="model")
    return model.text


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
) -> Embeddings:
    """Embed for a request, and note it in its line in the log.

    Args:
        request: whose body has been read.
        model: an embedding model.
        items: what to embed.
        purpose: what the texts are for; see `prompts`.
        place: the field that says so.
        truncate: what to do with texts over the limit.
        max_tokens: a limit below the model's own.
        instruction: in place of the one that the model's prompt has.

    Raises:
        GatewayError: what `prompts.choose` and `embed` do, or there is an instruction for a model of images.
    """
    gateway = request.state["gateway"]
    if instruction is not None and model.text is None:
        raise InvalidRequest(f"instruction: model {model.name!r} takes images only", param=prompts.FIELD)
    model = prompts.for_purpose(model, "query" if purpose is None and instruction is not None else purpose)
    embedded = await embed(
        caller(request),
        gateway.images,
        gateway.catalog.models,
        model,
        items,
        prompt=prompts.choose(model.text, purpose, place, instruction) if model.text is not None else "",
        truncate=truncate,
        max_tokens=max_tokens,
    )
    record = request.state["record"]
    record.inputs, record.tokens = len(items), embedded.text_tokens + embedded.image_tokens
    record.images = sum(item.image is not None for item in items) or None
    return embedded


async def rank_texts(
    request: Request,
    model: TextModel,
    query: str,
    documents: Sequence[str],
    *,
    truncate: Truncate,
    max_tokens: int | None = None,
    raw: bool = False,
    instruction: str | None = None,
) -> Ranking:
    """Rank for a request, and note it in its record.

    Args:
        request: whose body has been read.
        model: as `find_ranker` gives it.
        query: never truncated.
        documents: texts to rank by the query.
        truncate: what to do with documents over the limit.
        max_tokens: a limit for each document below the model's own.
        raw: whether scores are a cross-encoder's logits.
        instruction: in place of the one in the model's template or prompt.

    Raises:
        GatewayError: what `rerank` raises.
    """
    ranking = await rerank(
        caller(request),
        model,
        query,
        documents,
        truncate=truncate,
        max_tokens_per_document=max_tokens,
        raw=raw,
        instruction=instruction,
    )
    note(request, len(documents), ranking.tokens)
    return ranking


def note(request: Request, inputs: int, tokens: int) -> None:
    """Note in a request's record how much it asked for."""
    record = request.state["record"]
    record.inputs, record.tokens = inputs, tokens
