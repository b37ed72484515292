"""What runs inside Triton: entries of the python backend hold a copy of these files."""
