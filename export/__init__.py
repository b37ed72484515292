"""Turns embedding and rerank models into verified entries of a Triton model repository."""
