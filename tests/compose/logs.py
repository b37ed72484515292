"""What containers have logged that they should not have."""

import json
import re

EXPECTED = (
    "not ready: ",  # while a service that it needs starts
    "CudaDriverHelper has not been initialized",  # there is no GPU
    "Unable to allocate pinned system memory",
    "CUDA memory pool disabled",
    "Failed to initialize NVML",
    "DCGM unable to start",
    "Device information mismatch for AOTI_CPU_ISA",  # Triton lacks the compiler that would tell
)
WARNING = re.compile(r"[EWF]\d{4} |.*\b(error|warning|traceback|failed|level=(warn|error))\b", re.IGNORECASE)


def unexpected(logs: str) -> str:
    """Lines of `docker compose logs` that warn, or report an error."""
    lines = logs.splitlines()
    return "\n".join(line for line in lines if _warns(line) and not any(known in line for known in EXPECTED))


def _warns(line: str) -> bool:
    _, _, message = line.partition("| ")
    if message.startswith("{"):
        return json.loads(message)["level"] not in {"info", "debug"}
    return bool(WARNING.match(message))
