"""Images of requests, which may be hostile, to pixels. `reader.Images` is the entry point."""
