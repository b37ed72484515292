"""Reads models with transformers, and refuses what the library would silently ignore."""
