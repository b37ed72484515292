"""Embedding and reranking, independent of HTTP and of the API in use."""
