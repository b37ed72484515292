"""Where models come from. Their files are untrusted: each is inspected before any library reads it."""
