"""What a device does at most: large matrix products."""

import time

import torch

WIDTH = 1024
"""Of the matrices."""


def peak_flops(seconds: float, dtype: torch.dtype, device: str = "cpu", width: int = WIDTH) -> float:
    """Floating-point operations a second of large matrix products.

    Args:
        seconds: to measure.
        dtype: of the matrices.
        device: where they are.
        width: of the matrices.
    """
    one, other = torch.rand(2, width, width, device=device).to(dtype)
    float(torch.mm(one, other)[0, 0])
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        product = torch.mm(one, other)
        done += 1
        if done % 16 == 0:
            float(product[0, 0])  # waits for the device
    float(torch.mm(one, other)[0, 0])
    return (done + 1) * 2 * width**3 / (time.perf_counter() - started)
