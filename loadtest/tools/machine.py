"""The machine and the software that figures are from."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

PACKAGES = ("openvino", "nvidia-pytriton", "tritonclient", "tokenizers", "uvicorn", "starlette", "numpy")
FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")


def describe() -> dict[str, str | int | float]:
    """What a figure means nothing without."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "features": " ".join(name for name in FEATURES if name in _line("flags").split()),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def cpu() -> str:
    """The processor's name as Linux has it."""
    return _line("model name") or platform.machine()


def _line(name: str) -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith(name)), "")
