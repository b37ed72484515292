"""POST /invocations, by which SageMaker calls vLLM: a request of any path, chosen by its fields and its model."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, get_args

from msgspec import Struct
from starlette.responses import Response

from gateway.catalog import OFFERS
from gateway.errors import ModelNotFound
from gateway.routes import embeddings, rerank, vllm
from gateway.routes.body import read_one_of
from gateway.routes.embeddings import EmbeddingRequest, EmbeddingResponse
from gateway.routes.http import OCTETS, Request
from gateway.routes.operation import Operation
from gateway.routes.rerank import RerankRequest
from gateway.routes.vllm import ClassifyRequest, PoolingRequest, ScoreRequest, Task

ANSWERS: Mapping[type[Struct], Callable[[Request, Any], Awaitable[Response]]] = {
    EmbeddingRequest: embeddings.embed,
    RerankRequest: rerank.rank,
    ScoreRequest: vllm.score_pairs,
    PoolingRequest: vllm.compute,
    ClassifyRequest: vllm.label,
}


async def invoke(request: Request) -> Response:
    """Answer POST /invocations."""
    body = await read_one_of(request, partial(_type_of, request))
    return await ANSWERS[type(body)](request, body)


def _type_of(request: Request, body: object) -> type[Struct]:
    """The type of a request by its fields and, if they do not tell, by what its model offers."""
    fields: Mapping[str, object] = body if isinstance(body, dict) else {}
    if "query" in fields:
        return RerankRequest
    if any(name in fields for name in vllm.TEXT_1):
        return ScoreRequest
    if fields.get("task") in get_args(Task):
        return PoolingRequest
    name = fields.get("model")
    with suppress(ModelNotFound):  # the endpoint of embeddings says so
        if isinstance(name, str):
            offers = request.state["gateway"].catalog.find(name, OFFERS).offers
            return (
                EmbeddingRequest if "dense" in offers else ClassifyRequest if "classify" in offers else PoolingRequest
            )
    return EmbeddingRequest


OPERATIONS = (
    Operation(
        "post",
        "/invocations",
        "invoke",
        "A request of /v1/embeddings, /v1/rerank, /score, /classify or /pooling (SageMaker, vLLM)",
        invoke,
        EmbeddingResponse,
        EmbeddingRequest,
        {"input": ["a shell", "a trumpet"]},
        also_gives=OCTETS,
    ),
)
