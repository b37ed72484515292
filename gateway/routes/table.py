"""All routes of the API. The router, /openapi.json and the metrics' labels are made from this table."""

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

CALLS = (
    *embeddings.OPERATIONS,
    *rerank.OPERATIONS,
    *voyage.OPERATIONS,
    *cohere.OPERATIONS,
    *cohere_tokens.OPERATIONS,
    *nim.OPERATIONS,
    *tei.OPERATIONS,
    *vllm.OPERATIONS,
    *tokenization.OPERATIONS,
    *invocations.OPERATIONS,
    *ollama.OPERATIONS,
    *llama_cpp.OPERATIONS,
    *mixedbread.OPERATIONS,
    *dashscope.OPERATIONS,
)
"""What uses the models."""
IN_BATCHES = {
    operation.path: operation
    for operation in CALLS
    if operation.method == "post" and operation.request is not None and "{" not in operation.path
}
"""Those that a batch may hold requests to, by path."""
OPERATIONS = (
    *CALLS,
    *files.OPERATIONS,
    *batches.OPERATIONS,
    *models.OPERATIONS,
    *health.OPERATIONS,
)
DOCUMENTED = tuple(operation for operation in OPERATIONS if operation.is_documented)
