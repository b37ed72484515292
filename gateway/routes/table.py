"""All dialects. The router, /openapi.json, the documentation and the metrics' labels are made from this table."""

from gateway.routes import (
    batches,
    cohere,
    cohere_tokens,
    dashscope,
    embeddings,
    files,
    health,
    invocations,
    llama_cpp,
    mixedbread,
    models,
    nim,
    ollama,
    rerank,
    tei,
    tokenization,
    vllm,
    voyage,
)
from gateway.routes.operation import Dialect

BATCHES = Dialect("OpenAI's batches", (*files.OPERATIONS, *batches.OPERATIONS))
EMBEDDINGS, RERANK, MODELS = "/v1/embeddings", "/v1/rerank", "/v1/models"

DIALECTS = (
    Dialect(
        "OpenAI, Jina",
        (*embeddings.OPERATIONS, *rerank.OPERATIONS, *models.OPERATIONS),
        prefixes=("/v1", "/openai"),
    ),
    Dialect("Voyage", voyage.OPERATIONS, shared=(EMBEDDINGS, RERANK)),
    Dialect(
        "Cohere",
        (*cohere.OPERATIONS, *cohere_tokens.OPERATIONS),
        error_format=cohere.COHERE,
        prefixes=("/v2",),
        shared=(RERANK, MODELS),
    ),
    Dialect("NVIDIA NIM", nim.OPERATIONS, shared=(EMBEDDINGS, MODELS)),
    Dialect("Text Embeddings Inference", tei.OPERATIONS, error_format=tei.TEI, shared=(EMBEDDINGS, "/health")),
    Dialect(
        "vLLM",
        (*vllm.OPERATIONS, *tokenization.OPERATIONS, *invocations.OPERATIONS, *health.LOAD),
        shared=(EMBEDDINGS, RERANK, "/v2/rerank", "/rerank", "/tokenize", MODELS, "/health", "/ping"),
    ),
    Dialect("Ollama", ollama.OPERATIONS, error_format=ollama.OLLAMA, prefixes=("/api",), shared=(EMBEDDINGS, MODELS)),
    Dialect("llama.cpp", llama_cpp.OPERATIONS, shared=(EMBEDDINGS, RERANK, "/v1/reranking", MODELS, "/health")),
    Dialect("mixedbread", mixedbread.OPERATIONS, shared=(EMBEDDINGS,)),
    Dialect("DashScope", dashscope.OPERATIONS, error_format=dashscope.DASHSCOPE),
    BATCHES,
    Dialect("Health", health.HEALTH),
)

SPOKEN = tuple((operation, dialect) for dialect in DIALECTS for operation in dialect.operations)
OPERATIONS = tuple(operation for operation, _ in SPOKEN)
DOCUMENTED = tuple((operation, dialect) for operation, dialect in SPOKEN if operation.is_documented)
IN_BATCHES = {
    operation.path: (operation, dialect)
    for operation, dialect in SPOKEN
    if operation.method == "post"
    and operation.request is not None
    and "{" not in operation.path
    and dialect is not BATCHES
}
"""Operations that a batch may hold requests to, by path."""
