"""Compares the answers of a running gateway with those of the library."""
