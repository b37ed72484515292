"""All routes of the API. The router, /openapi.json and the metrics' labels are made from this table."""

from gateway.routes import (
    cohere,
    cohere_tokens,
    dashscope,
    embeddings,
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

OPERATIONS = (
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
    *models.OPERATIONS,
    *health.OPERATIONS,
)
DOCUMENTED = tuple(operation for operation in OPERATIONS if operation.is_documented)
