"""The rerank API of Alibaba's DashScope, at its path: fields in `input` and `parameters`."""

from collections.abc import Mapping
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from gateway.error_body import ErrorFormat, Failure
from gateway.errors import InvalidKey, ModelNotFound, Overloaded, QuotaExceeded
from gateway.routes.body import read
from gateway.routes.calls import find_ranker, rank_texts_or_contents
from gateway.routes.content import InputItem, read_item, simple
from gateway.routes.fields import Instruction
from gateway.routes.http import Request, large_json_response
from gateway.routes.operation import Operation
from gateway.routes.rerank import DOCUMENTS, QUERY, Document, as_object
from gateway.service.contents import Content
from gateway.service.text_batches import MAX_ROWS

CODES: Mapping[type[Exception], str] = {
    InvalidKey: "InvalidApiKey",
    ModelNotFound: "ModelNotFound",
    QuotaExceeded: "Throttling.RateQuota",
    Overloaded: "Throttling",
}
"""DashScope's code of each error. Others are InvalidParameter if they are the client's, else InternalError."""


class DashScopeError(Struct):
    """The body of an error response."""

    code: str
    message: str
    request_id: str


class DashScopeInput(Struct, forbid_unknown_fields=True, kw_only=True):
    """A query, and the documents to rank by their relevance to it."""

    query: Annotated[str, Meta(min_length=1)] | InputItem
    """A text or, for models that take images, an object. Never truncated. It may take up to half of the model's
    limit."""
    documents: Annotated[list[str | InputItem], Meta(min_length=1, max_length=MAX_ROWS)]
    """Texts, or objects with `text` or, for models that take images, `image`. Texts over the model's limit are
    truncated at the end."""


class DashScopeParameters(Struct, forbid_unknown_fields=True, kw_only=True):
    """How to rank."""

    top_n: Annotated[int, Meta(ge=0)] | None = None
    """How many results to return, best first. Default, and for 0: all."""
    return_documents: bool | None = None
    """Whether results include their document. Default: false."""
    instruct: Instruction | None = None
    """Tells the model what makes a document relevant, as `instruction` on /v1/rerank."""


class DashScopeRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """What to rank, and how."""

    input: DashScopeInput
    parameters: DashScopeParameters | None = None
    model: str | None = None
    """A name or alias from /v1/models. Default: the default rerank model."""


class DashScopeResult(Struct, omit_defaults=True):
    """The score of a document."""

    index: int
    relevance_score: float
    document: Document | UnsetType = UNSET


class DashScopeOutput(Struct):
    """The results by descending relevance."""

    results: list[DashScopeResult]


class DashScopeUsage(Struct):
    """Tokens in the query (counted once) and the documents, after truncation, including special tokens."""

    total_tokens: int


class DashScopeResponse(Struct):
    """The results and the usage."""

    output: DashScopeOutput
    usage: DashScopeUsage
    request_id: str


def _write_error(failure: Failure) -> Struct:
    code = CODES.get(failure.kind, "InvalidParameter" if failure.spec.status < 500 else "InternalError")
    return DashScopeError(code, failure.message, failure.request_id)


DASHSCOPE = ErrorFormat(DashScopeError, _write_error)
"""DashScope's error bodies, with this server's own statuses."""


async def create(request: Request) -> Response:
    """Answer the path."""
    body = await read(request, DashScopeRequest)
    given, parameters = body.input, body.parameters or DashScopeParameters()
    ranking = await rank_texts_or_contents(
        request,
        find_ranker(request, body.model),
        _content(given.query, "input.query"),
        [_content(document, f"input.documents[{i}]") for i, document in enumerate(given.documents)],
        place="input.documents",
        truncate="end",
        instruction=parameters.instruct,
    )
    results = [
        DashScopeResult(
            ranked.index,
            ranked.score,
            _described(given.documents[ranked.index]) if parameters.return_documents else UNSET,
        )
        for ranked in ranking.results[: parameters.top_n or None]
    ]
    usage = DashScopeUsage(ranking.tokens + ranking.image_tokens)
    response = DashScopeResponse(DashScopeOutput(results), usage, request.state["record"].request_id)
    return await large_json_response(request, lambda: response)


def _content(item: str | InputItem, place: str) -> str | Content:
    return item if isinstance(item, str) else simple(read_item(item, place))


def _described(document: str | InputItem) -> Document:
    """A document as results include it: the fields that it has."""
    if isinstance(document, str):
        return as_object(document)
    fields = {name: getattr(document, name) for name in document.__struct_fields__}
    return {name: field for name, field in fields.items() if field}


OPERATIONS = (
    Operation(
        "post",
        "/api/v1/services/rerank/text-rerank/text-rerank",
        "dashScopeRerank",
        "Rank documents (DashScope)",
        create,
        DashScopeResponse,
        DashScopeRequest,
        {"input": {"query": QUERY, "documents": DOCUMENTS}, "parameters": {"top_n": 1}},
    ),
)
