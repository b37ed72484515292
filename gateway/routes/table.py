"""All routes of the API. The router, /openapi.json and the metrics' labels are made from this table."""

from gateway.routes import batches, cohere, embeddings, files, health, models, nim, rerank, tei, vllm

CALLS = (
    *embeddings.OPERATIONS,
    *rerank.OPERATIONS,
    *cohere.OPERATIONS,
    *nim.OPERATIONS,
    *tei.OPERATIONS,
    *vllm.OPERATIONS,
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
