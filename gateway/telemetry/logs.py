"""Structured logs: one JSON object a line on standard output."""

import logging
import sys
from datetime import UTC, datetime

import orjson

CHATTY = ("gateway", "uvicorn.error")
"""Loggers whose lines of level info hold nothing that clients or other servers said."""
MAX_CHARACTERS = 16 * 2**10
"""Of a message or a trace: it may quote what somebody else has made long."""


class JsonFormatter(logging.Formatter):
    """Time, level, logger and message, and the fields that a record was given as `extra={"fields": ...}`."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
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
    """Send level info of CHATTY, and warnings of all others, to standard output.

    Other libraries say at level info what they do, such as the URLs that they fetch, whose signatures are passwords.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    # Not shown, and not free.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.INFO)
