"""Structured logs: one JSON object per line on standard output."""

import logging
import sys
from datetime import UTC, datetime

import orjson

CHATTY = ("gateway", "uvicorn.error")
"""Loggers whose info lines are written: they contain nothing that clients or other servers sent."""
MAX_CHARACTERS = 16 * 2**10
"""The longest message or stack trace that is logged: either may quote long input."""


class JsonFormatter(logging.Formatter):
    """Writes the time, level, logger and message, and the fields passed as `extra={"fields": ...}`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:MAX_CHARACTERS],
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)[:MAX_CHARACTERS]
        return orjson.dumps(line, default=str).decode()


def configure() -> None:
    """Log to standard output: CHATTY from level info, all other loggers from level warning.

    Other libraries log at level info what they do, such as the URLs that they fetch, which may hold signatures.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    # These fields are not written, and collecting them costs time.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.INFO)
