"""Computes packed rows with models of transformers: no compute is wasted on padding."""
