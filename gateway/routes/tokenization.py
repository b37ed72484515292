"""vLLM's /tokenize and /detokenize. TEI's /tokenize is at the same path; see `tei.tokenize`."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from msgspec import Meta, Raw, Struct
from msgspec.json import encode
from starlette.responses import Response

from gateway.catalog import OFFERS, Model
from gateway.errors import InvalidRequest
from gateway.routes.body import read
from gateway.routes.calls import caller, find_model, record_usage, text_model
from gateway.routes.decoding import Refused
from gateway.routes.http import Request, json_response
from gateway.routes.operation import Operation
from gateway.service.embed import DENSE
from gateway.service.tokens import MAX_TOKENS, texts_of, token_spans
from gateway.text.tokenizer import TokenSpan

TokenId = Annotated[int, Meta(ge=0, lt=2**32)]


class PromptRequest(Struct, forbid_unknown_fields=True):
    """A text to tokenize."""

    prompt: str
    """The text. The model's own prompts are not put before it."""
    add_special_tokens: bool | None = None
    """Default: true."""
    return_token_strs: bool | None = None
    """Whether to return the tokens as in the vocabulary, too. Default: false."""
    model: str | None = None
    """A name or alias from /v1/models. Default: the default embedding model."""
    refused: ClassVar[Mapping[str, Refused]] = {
        "messages": Refused("conversations are not tokenized; send prompt"),
    }


class PromptTokens(Struct):
    """The tokens of a text."""

    count: int
    max_model_len: int
    """The limit of the model."""
    tokens: Raw
    token_strs: Raw | None


class DetokenizeRequest(Struct, forbid_unknown_fields=True):
    """Token ids to turn into text."""

    tokens: Annotated[list[TokenId], Meta(max_length=MAX_TOKENS)]
    """Ids outside the vocabulary are left out."""
    model: str | None = None
    """A name or alias from /v1/models. Default: the default embedding model."""


class DetokenizeResponse(Struct):
    """The text of token ids, including special tokens."""

    prompt: str


def tokenizing_model(request: Request, name: str | None) -> Model:
    """The model whose tokenizer a request wants: by default, the default embedding model."""
    return find_model(request, name, DENSE if name is None else OFFERS)


async def tokenize(request: Request, body: PromptRequest) -> Response:
    """Answer a request whose body has been read."""
    model = text_model(tokenizing_model(request, body.model))
    if len(body.prompt) > MAX_TOKENS:
        raise InvalidRequest(f"prompt exceeds {MAX_TOKENS} characters", param="prompt")

    def write(tokens: list[TokenSpan]) -> PromptTokens:
        ids = Raw(encode([token.id for token in tokens]))
        texts = Raw(encode([token.text for token in tokens])) if body.return_token_strs else None
        return PromptTokens(len(tokens), model.max_tokens, ids, texts)

    special = body.add_special_tokens is not False
    (written,) = await token_spans(caller(request), model, [body.prompt], write, special=special)
    record_usage(request, 1, written.count)
    return json_response(written)


async def detokenize(request: Request) -> Response:
    """Answer POST /detokenize."""
    body = await read(request, DetokenizeRequest)
    model = text_model(tokenizing_model(request, body.model))
    record_usage(request, 1, len(body.tokens))
    (text,) = await texts_of(caller(request), model, [body.tokens], skip_special=False)
    return json_response(DetokenizeResponse(text))


OPERATIONS = (
    Operation(
        "post",
        "/detokenize",
        "detokenize",
        "Turn token ids into text (vLLM)",
        detokenize,
        DetokenizeResponse,
        DetokenizeRequest,
        {"tokens": [101, 1037, 5806, 102]},
    ),
)
