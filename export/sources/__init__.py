"""The sources of models. Their files are untrusted: each is inspected before any library reads it."""
