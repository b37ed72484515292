"""Writes the figures of stored results into the pages of docs/, one module per page."""
