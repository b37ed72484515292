"""Conch without Docker: the Triton inside the wheel nvidia-pytriton, and the gateway, as one foreground process."""
