"""Compares a finished graph, run as it will be served, with its reference."""
