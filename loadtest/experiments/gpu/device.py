"""The machine and GPU that figures are from."""

import subprocess
from pathlib import Path

import msgspec
import torch

from loadtest.experiments.gpu.results import Results
from loadtest.tools import machine

PACKAGES = ("transformers", "sentence-transformers", "onnxruntime-gpu", "onnxruntime", "flash-attn", "nvidia-pytriton")
SAME = ("gpu", "driver", "torch")
"""Stages are stored together only if they ran with the same of these."""


def problem() -> str | None:
    """Why no GPU can be measured here."""
    if torch.cuda.is_available():
        return None
    return f"torch {torch.__version__} finds no GPU"


def take_one_thread() -> None:
    """Let a CPU compute in one thread: with tiny models, several only wait for each other."""
    torch.set_num_threads(1)


def results(file: Path) -> Results:
    """Those of other stages on this machine, or empty ones."""
    found = describe()
    if file.exists():
        stored = msgspec.json.decode(file.read_bytes(), type=Results)
        if all(stored.machine.get(key) == found.get(key) for key in SAME):
            stored.machine = found
            return stored
    return Results(found)


def describe() -> dict[str, str | int | float]:
    """The machine, its GPU if it has one, and the software."""
    about = machine.describe(PACKAGES) | {"torch": str(torch.__version__)}
    if not torch.cuda.is_available():
        return about | {"gpu": "none"}
    return about | _gpu()  # pragma: needs a GPU


def _gpu() -> dict[str, str | int | float]:  # pragma: needs a GPU
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "gpu_memory_gib": round(properties.total_memory / 2**30),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "cuda": str(torch.version.cuda),
        "driver": _driver(),
    }


def _driver() -> str:  # pragma: needs a GPU
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "unknown"
    return listed.stdout.split()[0]
