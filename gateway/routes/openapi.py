"""GET /openapi.json, generated from the types that validate requests and write answers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway import __version__
from gateway.routes import cohere, nim, tei
from gateway.routes.embeddings import EmbeddingRequest, EmbeddingResponse
from gateway.routes.errors import ErrorResponse
from gateway.routes.health import Health
from gateway.routes.models import ModelList, ModelObject
from gateway.routes.rerank import RerankRequest, RerankResponse
from gateway.text.tokenizer import Piece

Schema = dict[str, Any]
TEI = tei.TeiError


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    id: str
    summary: str
    response: Any
    """A type."""
    request: type[msgspec.Struct] | None = None
    error: type[msgspec.Struct] = ErrorResponse
    same_as: str = ""
    """The id of the operation that this is another path of."""

    def also(self, path: str, suffix: str) -> "Operation":
        """The same at another path."""
        return replace(self, path=path, id=self.id + suffix, summary=f"The same as {self.path}", same_as=self.id)


EMBED = Operation(
    "post", "/v1/embeddings", "createEmbedding", "Embed texts and images", EmbeddingResponse, EmbeddingRequest
)
TEI_EMBED = Operation(
    "post", "/embed", "teiEmbed", "Embed texts, as TEI does", list[list[float]], tei.TeiEmbedRequest, TEI
)
LIST = Operation("get", "/v1/models", "listModels", "List models", ModelList)
RETRIEVE = Operation("get", "/v1/models/{id}", "retrieveModel", "Describe a model", ModelObject)
OPERATIONS = (
    EMBED,
    Operation("post", "/v1/rerank", "rerank", "Rank documents by a query", RerankResponse, RerankRequest),
    Operation(
        "post", "/v1/ranking", "nimRanking", "Rank passages, as NIM does", nim.RankingResponse, nim.RankingRequest
    ),
    Operation(
        "post",
        "/v1/embed",
        "cohereV1Embed",
        "Embed texts and images, as Cohere did first",
        cohere.EmbedResponse | cohere.FloatsResponse,
        cohere.V1EmbedRequest,
        cohere.CohereError,
    ),
    Operation(
        "post",
        "/v2/embed",
        "cohereEmbed",
        "Embed texts and images, as Cohere does",
        cohere.EmbedResponse,
        cohere.EmbedRequest,
        cohere.CohereError,
    ),
    Operation(
        "post",
        "/v2/rerank",
        "cohereRerank",
        "Rank documents by a query, as Cohere does",
        cohere.V2RerankResponse,
        cohere.V2RerankRequest,
        cohere.CohereError,
    ),
    TEI_EMBED,
    replace(TEI_EMBED.also("/", "AtRoot"), summary="The same as /embed, or as /similarity where inputs are an object"),
    Operation(
        "post",
        "/rerank",
        "teiRerank",
        "Rank texts, as TEI does, or documents, as /v1/rerank does",
        list[tei.Rank],
        tei.TeiRerankRequest,
        TEI,
    ),
    Operation(
        "post",
        "/predict",
        "teiPredict",
        "Score pairs of texts, as TEI does",
        list[tei.Prediction | list[tei.Prediction]],
        tei.PredictRequest,
        TEI,
    ),
    Operation(
        "post",
        "/similarity",
        "teiSimilarity",
        "Compare sentences, as TEI does",
        list[float],
        tei.SimilarityRequest,
        TEI,
    ),
    Operation(
        "post",
        "/tokenize",
        "teiTokenize",
        "Cut texts into tokens, as TEI does",
        list[list[Piece]],
        tei.TokenizeRequest,
        TEI,
    ),
    Operation("get", "/info", "teiInfo", "Describe the default embedding model, as TEI does", tei.Info),
    LIST,
    RETRIEVE,
    EMBED.also("/embeddings", "WithoutVersion"),
    LIST.also("/models", "WithoutVersion"),
    RETRIEVE.also("/models/{id}", "WithoutVersion"),
    EMBED.also("/openai/deployments/{model}/embeddings", "OfDeployment"),
    EMBED.also("/openai/v1/embeddings", "OfAzure"),
    LIST.also("/openai/v1/models", "OfAzure"),
    RETRIEVE.also("/openai/v1/models/{id}", "OfAzure"),
    Operation("get", "/health", "health", "The same as /health/ready, where TEI has it", Health),
    Operation("get", "/health/live", "healthLive", "Whether the process answers", Health),
    Operation("get", "/health/ready", "healthReady", "Whether every model answers", Health),
)

QUERY, DOCUMENTS = "Who plays a shell?", ["A conch can be blown like a trumpet.", "Brass is an alloy."]
EXAMPLES: Mapping[str, Schema] = {
    "createEmbedding": {"input": ["a shell", "a trumpet"]},
    "rerank": {"query": QUERY, "documents": DOCUMENTS},
    "nimRanking": {"query": {"text": QUERY}, "passages": [{"text": text} for text in DOCUMENTS]},
    "cohereV1Embed": {"texts": ["a shell"], "input_type": "search_document"},
    "cohereEmbed": {"model": "all-minilm-l6-v2", "input_type": "search_document", "texts": ["a shell"]},
    "cohereRerank": {"model": "minilm-late-interaction", "query": QUERY, "documents": DOCUMENTS},
    "teiEmbed": {"inputs": ["a shell", "a trumpet"]},
    "teiRerank": {"query": QUERY, "texts": DOCUMENTS},
    "teiPredict": {"inputs": [[QUERY, text] for text in DOCUMENTS]},
    "teiSimilarity": {"inputs": {"source_sentence": QUERY, "sentences": DOCUMENTS}},
    "teiTokenize": {"inputs": "a shell"},
}
"""Requests by operation, which the default models answer; predictions take a cross-encoder."""
TAGS = {"cohere": "Cohere", "nim": "NIM", "tei": "Text Embeddings Inference", "health": "Health"}
"""Whose operations are whose, by how their ids begin; all others are of the API that OpenAI, Jina and Voyage share."""
KEY = {"type": "http", "scheme": "bearer", "description": "One of GATEWAY_API_KEYS, where the server has any."}
AZURE_KEY = {
    "type": "apiKey",
    "in": "header",
    "name": "api-key",
    "description": "The same, as Azure's clients send it.",
}
SHARED = "OpenAI, Jina, Voyage"
NULL = {"type": "null"}
COMPONENT = "#/components/schemas/{name}"


def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    answers = [type_ for operation in OPERATIONS for type_ in (operation.response, operation.error)]
    bodies = [operation.request for operation in OPERATIONS if operation.request is not None]
    found, schemas = msgspec.json.schema_components(answers, ref_template=COMPONENT)
    asked, of_bodies = msgspec.json.schema_components(bodies, ref_template=COMPONENT)
    for schema in of_bodies.values():
        _as_it_is_read(schema)
    schemas.update(of_bodies)
    requests = iter(asked)
    described = iter(found)
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        response = next(described)
        request = next(requests) if operation.request is not None else None
        paths.setdefault(operation.path, {})[operation.method] = _describe(
            operation, response, request, next(described)
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Conch", "version": __version__},
        "tags": [{"name": tag} for tag in (SHARED, *TAGS.values())],
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": KEY, "azureKey": AZURE_KEY}},
        "security": [{}, {"key": []}, {"azureKey": []}],  # open where no keys are configured
    }


def _as_it_is_read(schema: Schema) -> None:
    """Say of an object in a body what `decoding` does: unknown fields are left out, null means the default."""
    schema.pop("additionalProperties", None)
    properties = schema.get("properties", {})
    for name in properties.keys() - set(schema.get("required", ())):
        annotations = {key: properties[name].pop(key) for key in ("default", "description") if key in properties[name]}
        choices = [choice for choice in properties[name].get("anyOf", [properties[name]]) if choice != NULL]
        properties[name] = {"anyOf": [*choices, NULL], **annotations}


def _describe(operation: Operation, response: Schema, request: Schema | None, error: Schema) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": operation.id,
        "tags": [next((tag for prefix, tag in TAGS.items() if operation.id.startswith(prefix)), SHARED)],
        "responses": {
            "200": {"description": "Done", "content": _json(response)},
            "default": {"description": "Failed", "content": _json(error)},
        },
    }
    if request is not None:
        content = _json(request)
        content["application/json"]["example"] = EXAMPLES[operation.same_as or operation.id]
        described["requestBody"] = {"required": True, "content": content}
    if operation.response is Health:
        described["security"] = []
    if names := re.findall(r"\{(\w+)\}", operation.path):
        described["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    return described


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


async def show(_: Request) -> Response:
    """Answer GET /openapi.json."""
    return Response(orjson.dumps(document()), media_type="application/json")
