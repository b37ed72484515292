"""Code that runs inside Triton. Entries of the python backend hold a copy of these files."""
