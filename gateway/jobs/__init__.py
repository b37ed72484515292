"""Batches of requests that run in the background: their files (`store`, `lines`), and what runs them (`runner`)."""
