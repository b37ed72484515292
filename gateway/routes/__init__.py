"""The HTTP side: a module for each API, thin over the service."""
