"""Code that runs inside Triton. Entries of the python and torch backends hold a copy of what they need."""
