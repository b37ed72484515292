"""Plans and compiled programs, built and verified on the device that serves them.

The serving image runs this package: it needs numpy, and TensorRT or torch.
"""
