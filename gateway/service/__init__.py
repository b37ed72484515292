"""What the gateway does, whatever the dialect it is asked in: embed and rerank, without HTTP."""
