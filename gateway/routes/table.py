"""All routes of the API. The router, /openapi.json and the metrics' labels are made from this table."""

from gateway.routes import cohere, embeddings, health, invocations, models, nim, rerank, tei, tokenization, vllm

OPERATIONS = (
    *embeddings.OPERATIONS,
    *rerank.OPERATIONS,
    *cohere.OPERATIONS,
    *nim.OPERATIONS,
    *tei.OPERATIONS,
    *vllm.OPERATIONS,
    *tokenization.OPERATIONS,
    *invocations.OPERATIONS,
    *models.OPERATIONS,
    *health.OPERATIONS,
)
DOCUMENTED = tuple(operation for operation in OPERATIONS if operation.is_documented)
