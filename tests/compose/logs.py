"""What containers have logged that they should not have."""

import json
import re

EXPECTED = (
    "not ready: ",  # while a service that it needs starts
    "Unable to allocate pinned system memory",  # there is no GPU
    "CUDA memory pool disabled",
    "Warning: '--strict-readiness",
)


def unexpected(logs: str) -> list[str]:
    """Lines that warn, or report an error: `docker compose logs` of all services."""
    return [line for line in logs.splitlines() if _warns(line) and not any(known in line for known in EXPECTED)]


def _warns(line: str) -> bool:
    _, _, message = line.partition("| ")
    message = re.sub(r"^\d{4}-\d\d-\d\dT\S+ ", "", message)
    if message.startswith("{"):
        return json.loads(message)["level"] not in {"info", "debug"}
    return bool(
        re.match(r"[EWF]\d{4} ", message)
        or re.search(r"\b(error|warning|traceback|failed|level=(warn|error))\b", message, re.IGNORECASE)
    )
