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
    """Writes the time, level, logger and message, the number of the worker if there are several, and the fields passed
    as `extra={"fields": ...}`."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:MAX_CHARACTERS],
            **self._worker,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)[:MAX_CHARACTERS]
        return orjson.dumps(line, default=str).decode()


def configure(worker: int | None = None) -> None:
    """Log to standard output: CHATTY from level info, all other loggers from level warning.

    Other libraries log at level info what they do, such as the URLs that they fetch, which may hold signatures.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(worker))
    # These fields are not written, and collecting them costs time.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # and finding out where a line is logged costs more
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of each malformed form, which gets a 400
