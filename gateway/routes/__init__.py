"""The HTTP layer: one module per API, each a thin layer over `gateway.service`."""
