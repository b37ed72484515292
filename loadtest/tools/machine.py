"""The machine and the software that figures are from."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

PACKAGES = ("openvino", "nvidia-pytriton", "tritonclient", "tokenizers", "uvicorn", "starlette", "numpy")
FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")


def describe(packages: Sequence[str] = PACKAGES) -> dict[str, str | int | float]:
    """What a figure means nothing without. A package that is not installed is left out."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "features": " ".join(name for name in FEATURES if name in _line("flags").split()),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{package: found for package in packages if (found := _version(package))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu() -> str:
    """The processor's name as Linux has it."""
    return _line("model name") or platform.machine()


def _line(name: str) -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith(name)), "")
