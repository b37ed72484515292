"""The API of Hugging Face's Text Embeddings Inference: /, /embed, /embed_sparse, /embed_all, /rerank, /predict,
/similarity, /tokenize, /decode, /info.

TEI's requests name no model: the default model of the path answers. Here they may name one.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, cast

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from starlette.responses import Response

from gateway import __version__, vectors
from gateway.catalog import Model, Offer, TextModel
from gateway.error_body import OPENAI, ErrorFormat, Failure
from gateway.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidRequest,
    NotReady,
    Overloaded,
    QuotaExceeded,
    TokenizerFailed,
)
from gateway.routes import encodings, tokenization
from gateway.routes.body import read, read_one_of
from gateway.routes.calls import (
    caller,
    classify_inputs,
    embed_items,
    find_classifier,
    find_model,
    find_ranker,
    rank_texts,
    record_usage,
    text_model,
)
from gateway.routes.decoding import Refused
from gateway.routes.fields import Instruction
from gateway.routes.http import Request, json_response, large_json_response
from gateway.routes.operation import Operation
from gateway.routes.rerank import DOCUMENTS, QUERY, RerankRequest, rank
from gateway.routes.tokenization import PromptRequest, TokenId, tokenizing_model
from gateway.service import prompts
from gateway.service.classify import Input, Pair
from gateway.service.embed import DENSE, Embeddings, Item
from gateway.service.text_batches import MAX_ROWS
from gateway.service.tokens import MAX_TOKENS, Text, texts_of, token_spans
from gateway.telemetry.timings import Stage
from gateway.text.tokenizer import TokenSpan, Truncate

PIECES = 10_000
"""How many tokens to write in one call."""
Direction = Literal["Left", "Right", "left", "right"]
Inputs = str | list[str | int | list[int]]
"""A text, token ids, or a list of either."""
Truncation = bool | None
"""Whether to truncate texts over the model's limit, by default as in TEI. If false, they are an error."""
ErrorType = Literal["Unhealthy", "Backend", "Overloaded", "Validation"]
ERROR_TYPES: Mapping[type[Exception], ErrorType] = {
    NotReady: "Unhealthy",
    DeadlineExceeded: "Unhealthy",
    InferenceFailed: "Backend",
    TokenizerFailed: "Backend",
    Overloaded: "Overloaded",
    QuotaExceeded: "Overloaded",
}
"""TEI's type of each error. All others are "Validation"."""
TIMES: Mapping[str, Stage] = {
    "x-tokenization-time": "tokenize",
    "x-queue-time": "queue",
    "x-inference-time": "inference",
}
"""Response headers with the time of a stage, in milliseconds."""
HEADERS = ("x-compute-tokens", "x-compute-characters", "x-total-time", *TIMES)
"""TEI's response headers."""


class TeiError(Struct):
    """The body of an error response."""

    error: str
    error_type: ErrorType


class TeiTexts(Struct, forbid_unknown_fields=True):
    """Texts to embed as the model does, without options."""

    inputs: Inputs
    """A text, token ids, or a list of either."""
    truncate: Truncation = True
    truncation_direction: Direction = "Right"
    prompt_name: str | None = None
    """The name of one of the model's prompts, which is put before the texts."""
    model: str | None = None
    """A name or alias from /v1/models. Default: the default model of the path."""


class TeiEmbedRequest(TeiTexts, forbid_unknown_fields=True):
    """Texts to embed."""

    normalize: bool | None = True
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    """Truncate vectors to this many dimensions, which the model must support, and normalize them again."""
    refused: ClassVar[Mapping[str, Refused]] = {
        "encoding_format": Refused("only lists of floats are supported; use POST /v1/embeddings", ("float",)),
        "input_type": Refused("use prompt_name instead"),
        "normalized": Refused("use normalize instead", (True,)),
        "output_dimension": Refused("use dimensions instead"),
    }


class SparseValue(Struct):
    """A term of a sparse vector."""

    index: int
    """An id of the vocabulary."""
    value: float


class TeiRerankRequest(Struct, forbid_unknown_fields=True):
    """A query, and the texts to rank by their relevance to it."""

    query: Annotated[str, Meta(min_length=1)]
    texts: Annotated[list[str], Meta(min_length=1, max_length=MAX_ROWS)]
    truncate: Truncation = True
    truncation_direction: Direction = "Right"
    raw_scores: bool = False
    """Whether scores are the model's logits."""
    return_text: bool = False
    top_n: Annotated[int, Meta(ge=0)] | None = None
    """How many results to return, best first. Default, and for 0: all."""
    instruction: Instruction | None = None
    """Tells the model what makes a text relevant, as on /v1/rerank."""
    model: str | None = None
    """A name or alias from /v1/models. Default: the default model of the path."""
    refused: ClassVar[Mapping[str, Refused]] = {
        "return_documents": Refused("use return_text with texts"),
        "truncate_prompt_tokens": Refused("supported only with documents instead of texts"),
    }


class Rank(Struct, omit_defaults=True):
    """A text's score."""

    index: int
    score: float
    text: str | UnsetType = UNSET


class Sentences(Struct, forbid_unknown_fields=True):
    """A sentence, and those to compare with it."""

    source_sentence: Annotated[str, Meta(min_length=1)]
    sentences: Annotated[list[str], Meta(min_length=1, max_length=MAX_ROWS - 1)]


class SimilarityParameters(Struct, forbid_unknown_fields=True):
    """How to embed the sentences."""

    truncate: Truncation = True
    truncation_direction: Direction = "Right"
    prompt_name: str | None = None


class SimilarityRequest(Struct, forbid_unknown_fields=True):
    """Sentences to compare."""

    inputs: Sentences
    parameters: SimilarityParameters | None = None
    model: str | None = None
    """A name or alias from /v1/models. Default: the default model of the path."""


class TokenizeRequest(Struct, forbid_unknown_fields=True):
    """Texts to tokenize."""

    inputs: str | Annotated[list[str], Meta(min_length=1, max_length=MAX_ROWS)]
    add_special_tokens: bool = True
    prompt_name: str | None = None
    model: str | None = None
    """A name or alias from /v1/models. Default: the default model of the path."""


class DecodeRequest(Struct, forbid_unknown_fields=True):
    """Token ids to turn into text."""

    ids: Annotated[list[TokenId | list[TokenId]], Meta(min_length=1)]
    """The ids of a text, or lists of them. Ids outside the vocabulary are left out."""
    skip_special_tokens: bool = True
    model: str | None = None
    """A name or alias from /v1/models. Default: the default model of the path."""


class PredictRequest(Struct, forbid_unknown_fields=True):
    """Texts or pairs of texts to classify, or pairs to score with a cross-encoder."""

    inputs: (
        str
        | Annotated[
            list[str | Annotated[list[str], Meta(min_length=1, max_length=2)]], Meta(min_length=1, max_length=MAX_ROWS)
        ]
    )
    """A text, a pair of texts, or a list of lists that hold a text or a pair each."""
    truncate: Truncation = True
    truncation_direction: Direction = "Right"
    raw_scores: bool = False
    """Whether scores are the model's logits."""
    model: str | None = None
    """A name or alias from /v1/models. Default: the default model of the path."""


class Prediction(Struct):
    """The score of a label."""

    score: float
    label: str


class Info(Struct):
    """The default embedding model and the limits of a request."""

    model_id: str
    model_type: dict[str, dict[str, str]]
    max_input_length: int
    max_batch_tokens: int
    """The most tokens in a request."""
    max_client_batch_size: int
    version: str


def _write_error(failure: Failure) -> Struct:
    return TeiError(failure.message, ERROR_TYPES.get(failure.kind, "Validation"))


TEI = ErrorFormat(TeiError, _write_error)
"""TEI's error bodies, with this server's own statuses."""


async def create(request: Request) -> Response:
    """Answer POST / like /similarity if inputs is an object, otherwise like /embed."""
    started = time.perf_counter()
    body = await _read_any(request)
    if isinstance(body, SimilarityRequest):
        return await _compare(request, started, body)
    return await _answer_embeddings(request, started, body)


async def _read_any(request: Request) -> SimilarityRequest | TeiEmbedRequest:
    return await read_one_of(request, _embed_or_similarity)


def _embed_or_similarity(body: object) -> type[SimilarityRequest] | type[TeiEmbedRequest]:
    is_similarity = isinstance(body, dict) and isinstance(body.get("inputs"), dict)
    return SimilarityRequest if is_similarity else TeiEmbedRequest


async def create_embeddings(request: Request) -> Response:
    """Answer POST /embed."""
    started = time.perf_counter()
    return await _answer_embeddings(request, started, await read(request, TeiEmbedRequest))


async def _answer_embeddings(request: Request, started: float, body: TeiEmbedRequest) -> Response:
    model, _ = _embedding_model(request, body.model)
    size = encodings.size(model, body.dimensions)
    items = read_items(body.inputs, "inputs")
    embedded = await _embed(
        request, model, items, body.prompt_name, _truncate(body.truncate, body.truncation_direction)
    )
    normalizes = body.normalize is not False or size < model.width

    def build() -> list[Raw]:
        floats = vectors.normalize(embedded.vectors[:, :size]) if normalizes else embedded.vectors
        return encodings.column(floats, "float")

    texts = [item.text for item in items]
    return await _response(request, started, build, texts, embedded.text_tokens, embedded.vectors.size)


async def create_sparse_embeddings(request: Request) -> Response:
    """Answer POST /embed_sparse: the terms of each text."""
    return await _answer_kind(request, "sparse", lambda embedded: [_terms(vector) for vector in embedded.sparse])


def _terms(vector: vectors.Sparse) -> list[SparseValue]:
    return list(map(SparseValue, vector.indices.tolist(), vector.weights.tolist()))


async def create_token_embeddings(request: Request) -> Response:
    """Answer POST /embed_all: the vectors of each text's tokens, not normalized."""
    return await _answer_kind(
        request, "multi_vector", lambda embedded: [encodings.matrix(each, "float") for each in embedded.tokens]
    )


async def _answer_kind(request: Request, kind: Offer, build: Callable[[Embeddings], object]) -> Response:
    started = time.perf_counter()
    body = await read(request, TeiTexts)
    model = find_model(request, body.model, {kind})
    items = read_items(body.inputs, "inputs")
    embedded = await embed_items(
        request,
        model,
        items,
        purpose=body.prompt_name,
        place="prompt_name",
        truncate=_truncate(body.truncate, body.truncation_direction),
        kinds={kind},
    )
    texts = [item.text for item in items]
    return await _response(request, started, lambda: build(embedded), texts, embedded.text_tokens, embedded.numbers)


async def create_similarities(request: Request) -> Response:
    """Answer POST /similarity: the cosine of each sentence with the first."""
    started = time.perf_counter()
    return await _compare(request, started, await read(request, SimilarityRequest))


async def _compare(request: Request, started: float, body: SimilarityRequest) -> Response:
    model, _ = _embedding_model(request, body.model)
    parameters = body.parameters or SimilarityParameters()
    truncate = _truncate(parameters.truncate, parameters.truncation_direction)
    items = [
        Item("inputs.source_sentence", body.inputs.source_sentence),
        *(Item(f"inputs.sentences[{i}]", text) for i, text in enumerate(body.inputs.sentences)),
    ]
    embedded = await _embed(request, model, items, parameters.prompt_name, truncate)
    source, *others = vectors.normalize(embedded.vectors)
    texts = [item.text for item in items]
    cosines = [float(source @ other) for other in others]
    return await _response(request, started, lambda: cosines, texts, embedded.text_tokens)


async def create_ranking(request: Request) -> Response:
    """Answer POST /rerank: like /v1/rerank if the request has documents, otherwise like TEI."""
    started = time.perf_counter()
    body = await _read_ranking(request)
    if isinstance(body, RerankRequest):
        return await rank(request, body)
    ranking = await rank_texts(
        request,
        find_ranker(request, body.model),
        body.query,
        body.texts,
        place="texts",
        truncate=_truncate(body.truncate, body.truncation_direction),
        raw=body.raw_scores,
        instruction=body.instruction,
    )
    ranks = [
        Rank(ranked.index, ranked.score, body.texts[ranked.index] if body.return_text else UNSET)
        for ranked in ranking.results[: body.top_n or None]
    ]
    return await _response(request, started, lambda: ranks, body.texts, ranking.tokens)


async def _read_ranking(request: Request) -> RerankRequest | TeiRerankRequest:
    def choose(body: object) -> type[RerankRequest] | type[TeiRerankRequest]:
        if not isinstance(body, dict) or body.get("documents") is None:
            return TeiRerankRequest
        request.state["error_format"] = OPENAI
        return RerankRequest

    return await read_one_of(request, choose)


async def create_predictions(request: Request) -> Response:
    """Answer POST /predict: the scores of all labels of a text, of a pair, or of each of several, best first."""
    started = time.perf_counter()
    body = await read(request, PredictRequest)
    inputs = _inputs_to_classify(body.inputs)
    found = await classify_inputs(
        request,
        find_classifier(request, body.model),
        inputs,
        truncate=_truncate(body.truncate, body.truncation_direction),
        raw=body.raw_scores,
    )
    is_batch = not isinstance(body.inputs, str) and isinstance(body.inputs[0], list)

    def build() -> list[list[Prediction]] | list[Prediction]:
        predictions = [[Prediction(score, label) for label, score in scored] for scored in found.labelled()]
        return predictions if is_batch else predictions[0]

    texts = [text for one in inputs for text in one.texts]
    return await _response(request, started, build, texts, found.tokens, found.scores.size)


async def tokenize(request: Request) -> Response:
    """Answer POST /tokenize: like vLLM if the request has a prompt or messages, otherwise like TEI."""
    body = await _read_texts(request)
    if isinstance(body, PromptRequest):
        return await tokenization.tokenize(request, body)
    model = tokenizing_model(request, body.model)
    encoder = text_model(prompts.for_purpose(model, body.prompt_name))
    prompt = prompts.choose(encoder, body.prompt_name, "prompt_name")
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    if sum(map(len, texts)) > MAX_TOKENS:
        raise InvalidRequest(f"inputs exceed {MAX_TOKENS} characters", param="inputs")
    prompted = [prompt + text for text in texts]
    special = body.add_special_tokens
    written = await token_spans(caller(request), encoder, prompted, _write, special=special)
    record_usage(request, len(texts), sum(count for count, _ in written))
    return json_response([content for _, content in written])


async def _read_texts(request: Request) -> PromptRequest | TokenizeRequest:
    def choose(body: object) -> type[PromptRequest] | type[TokenizeRequest]:
        if not isinstance(body, dict) or "inputs" in body or not ("prompt" in body or "messages" in body):
            return TokenizeRequest
        request.state["error_format"] = OPENAI
        return PromptRequest

    return await read_one_of(request, choose)


def _write(tokens: list[TokenSpan]) -> tuple[int, Raw]:
    """The number of tokens of a text, and their JSON. Written in parts, since each call holds the interpreter lock."""
    parts = (msgspec.json.encode(tokens[i : i + PIECES])[1:-1] for i in range(0, len(tokens), PIECES))
    return len(tokens), Raw(b"[" + b",".join(parts) + b"]")


async def decode(request: Request) -> Response:
    """Answer POST /decode."""
    body = await read(request, DecodeRequest)
    decoder = text_model(tokenizing_model(request, body.model))
    lists = [item for item in body.ids if isinstance(item, list)]
    if lists and len(lists) < len(body.ids):
        raise InvalidRequest("ids must be a list of token ids, or a list of such lists", param="ids")
    rows = lists or [cast(list[int], body.ids)]
    record_usage(request, len(rows), sum(map(len, rows)))
    return json_response(await texts_of(caller(request), decoder, rows, skip_special=body.skip_special_tokens))


async def info(request: Request) -> Response:
    """Answer GET /info about the default embedding model."""
    model, encoder = _embedding_model(request)
    return json_response(
        Info(
            model_id=model.name,
            model_type={"embedding": {"pooling": "in the graph"}},
            max_input_length=encoder.max_tokens,
            max_batch_tokens=MAX_TOKENS,
            max_client_batch_size=MAX_ROWS,
            version=__version__,
        )
    )


def _embedding_model(request: Request, name: str | None = None) -> tuple[Model, TextModel]:
    model = find_model(request, name, DENSE)
    return model, text_model(model)


async def _embed(
    request: Request, model: Model, items: list[Item], prompt_name: str | None, truncate: Truncate
) -> Embeddings:
    return await embed_items(request, model, items, purpose=prompt_name, place="prompt_name", truncate=truncate)


def read_items(inputs: Inputs, place: str) -> list[Item]:
    """Convert every form of texts and token ids to items; `place` is their field.

    Raises:
        InvalidRequest: there are none or too many, or single token ids are among texts.
    """
    if isinstance(inputs, str):
        return [Item(place, inputs)]
    if {*map(type, inputs)} == {int}:
        return [Item(place, cast(list[int], inputs))]
    if not 1 <= len(inputs) <= MAX_ROWS:
        raise InvalidRequest(f"{place} has {len(inputs)} items; it must have 1 to {MAX_ROWS}", param=place)
    items = []
    for i, item in enumerate(inputs):
        if isinstance(item, int):
            raise InvalidRequest(f"{place}[{i}] is a token id among texts", param=f"{place}[{i}]")
        items.append(Item(f"{place}[{i}]", item))
    return items


def _inputs_to_classify(inputs: str | list[str | list[str]]) -> list[Input]:
    if isinstance(inputs, str):
        return [Input("inputs", inputs)]
    texts = [item for item in inputs if isinstance(item, str)]
    if not texts:
        return [Input(f"inputs[{i}]", _content(item)) for i, item in enumerate(inputs) if isinstance(item, list)]
    if len(texts) < len(inputs) or len(texts) > 2:
        raise InvalidRequest("inputs must be a text, a pair of texts, or a list of lists of them", param="inputs")
    return [Input("inputs", _content(texts))]


def _content(texts: list[str]) -> str | Pair:
    return texts[0] if len(texts) == 1 else (texts[0], texts[1])


def _truncate(truncate: Truncation, direction: Direction) -> Truncate:
    if truncate is False:
        return "none"
    return "start" if direction.lower() == "left" else "end"


async def _response(
    request: Request,
    started: float,
    build: Callable[[], object],
    texts: Sequence[Text | None],
    tokens: int,
    numbers: int = 0,
) -> Response:
    """A response with TEI's headers: the tokens and characters processed, and the times in milliseconds."""
    response = await large_json_response(request, build, numbers)
    timings = request.state["record"].timings
    seconds = {name: timings.longest_s(stage) for name, stage in TIMES.items()}
    seconds["x-total-time"] = time.perf_counter() - started
    response.headers.update({name: str(round(1000 * value)) for name, value in seconds.items()})
    response.headers["x-compute-tokens"] = str(tokens)
    response.headers["x-compute-characters"] = str(sum(len(text) for text in texts if isinstance(text, str)))
    return response


EMBED = Operation(
    "post",
    "/embed",
    "teiEmbed",
    "Embed texts (TEI)",
    create_embeddings,
    list[list[float]],
    TeiEmbedRequest,
    {"inputs": ["a shell", "a trumpet"]},
)
RERANK = Operation(
    "post",
    "/rerank",
    "teiRerank",
    "Rank texts (TEI), or documents as on /v1/rerank",
    create_ranking,
    list[Rank],
    TeiRerankRequest,
    {"query": QUERY, "texts": DOCUMENTS},
)
OPERATIONS = (
    EMBED,
    replace(
        EMBED,
        path="/",
        id="teiEmbedAtRoot",
        summary="The same as /embed, or as /similarity if inputs is an object",
        endpoint=create,
    ),
    Operation(
        "post",
        "/embed_sparse",
        "teiEmbedSparse",
        "Embed texts as sparse vectors (TEI)",
        create_sparse_embeddings,
        list[list[SparseValue]],
        TeiTexts,
        {"inputs": ["a shell", "a trumpet"]},
    ),
    Operation(
        "post",
        "/embed_all",
        "teiEmbedAll",
        "Embed each token of texts (TEI)",
        create_token_embeddings,
        list[list[list[float]]],
        TeiTexts,
        {"inputs": ["a shell", "a trumpet"]},
    ),
    RERANK,
    Operation(
        "post",
        "/predict",
        "teiPredict",
        "Classify texts or pairs of texts (TEI)",
        create_predictions,
        list[Prediction | list[Prediction]],
        PredictRequest,
        {"inputs": [[QUERY, text] for text in DOCUMENTS]},
    ),
    Operation(
        "post",
        "/similarity",
        "teiSimilarity",
        "Compare sentences (TEI)",
        create_similarities,
        list[float],
        SimilarityRequest,
        {"inputs": {"source_sentence": QUERY, "sentences": DOCUMENTS}},
    ),
    Operation(
        "post",
        "/tokenize",
        "teiTokenize",
        "Tokenize texts (TEI), or a prompt (vLLM)",
        tokenize,
        list[list[TokenSpan]],
        TokenizeRequest,
        {"inputs": "a shell"},
    ),
    Operation(
        "post",
        "/decode",
        "teiDecode",
        "Turn token ids into texts (TEI)",
        decode,
        list[str],
        DecodeRequest,
        {"ids": [[101, 1037, 5806, 102]]},
    ),
    Operation("get", "/info", "teiInfo", "Describe the default embedding model (TEI)", info, Info),
)
