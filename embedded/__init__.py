"""Runs Conch without Docker: Triton from the nvidia-pytriton wheel and the gateway, as one foreground process."""
