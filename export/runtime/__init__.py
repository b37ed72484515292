"""What runs inside Triton: these files are copied into every entry of the python backend."""
