"""The tokenizer of Cohere's first API: POST /v1/tokenize and /v1/detokenize."""

from typing import Annotated

from msgspec import Meta, Struct
from starlette.responses import Response

from gateway.catalog import OFFERS
from gateway.routes.body import read
from gateway.routes.calls import caller, find_model, record_usage, text_model
from gateway.routes.cohere import ApiVersion
from gateway.routes.http import Request, large_json_response
from gateway.routes.operation import Operation
from gateway.routes.tokenization import TokenId
from gateway.service.tokens import MAX_TOKENS, texts_of, token_spans
from gateway.text.tokenizer import TokenSpan


class CohereTokenizeRequest(Struct, forbid_unknown_fields=True):
    """A text to tokenize."""

    text: Annotated[str, Meta(min_length=1, max_length=MAX_TOKENS)]
    model: str
    """A name or alias from /v1/models."""


class CohereDetokenizeRequest(Struct, forbid_unknown_fields=True):
    """Tokens to turn into a text."""

    tokens: Annotated[list[TokenId], Meta(max_length=MAX_TOKENS)]
    """Ids of the model's vocabulary; others are left out."""
    model: str
    """A name or alias from /v1/models."""


class CohereTokensMeta(Struct):
    """The API version."""

    api_version: ApiVersion


class CohereTokens(Struct):
    """The tokens of the text, without special tokens."""

    tokens: list[int]
    token_strings: list[str]
    meta: CohereTokensMeta


class CohereText(Struct):
    """The text of the tokens, special tokens included."""

    text: str
    meta: CohereTokensMeta


META = CohereTokensMeta(ApiVersion("1"))


async def tokenize(request: Request) -> Response:
    """Answer POST /v1/tokenize."""
    body = await read(request, CohereTokenizeRequest)
    model = text_model(find_model(request, body.model, OFFERS))
    (tokens,) = await token_spans(caller(request), model, [body.text], list[TokenSpan], special=False)
    record_usage(request, 1, len(tokens))

    def build() -> CohereTokens:
        return CohereTokens([token.id for token in tokens], [token.text for token in tokens], META)

    return await large_json_response(request, build, len(tokens))


async def detokenize(request: Request) -> Response:
    """Answer POST /v1/detokenize."""
    body = await read(request, CohereDetokenizeRequest)
    model = text_model(find_model(request, body.model, OFFERS))
    (text,) = await texts_of(caller(request), model, [body.tokens], skip_special=False)
    record_usage(request, 1, len(body.tokens))
    return await large_json_response(request, lambda: CohereText(text, META))


OPERATIONS = (
    Operation(
        "post",
        "/v1/tokenize",
        "cohereTokenize",
        "Tokenize a text (Cohere v1)",
        tokenize,
        CohereTokens,
        CohereTokenizeRequest,
        {"model": "all-minilm-l6-v2", "text": "a shell"},
    ),
    Operation(
        "post",
        "/v1/detokenize",
        "cohereDetokenize",
        "Turn tokens into a text (Cohere v1)",
        detokenize,
        CohereText,
        CohereDetokenizeRequest,
        {"model": "all-minilm-l6-v2", "tokens": [1037, 5806]},
    ),
)
