"""Files that somebody else may put in place of others while the gateway runs."""

import os
import stat
from pathlib import Path


def read(path: Path, most_bytes: int) -> tuple[bytes, os.stat_result]:
    """The content of a regular file, and its status. A FIFO or a device in its place keeps nobody waiting.

    Raises:
        OSError: it cannot be read, is no regular file, or has more bytes.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123 - a descriptor
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path.name} is not a regular file")
        content = file.read(most_bytes + 1) if status.st_size <= most_bytes else b""
        if max(status.st_size, len(content)) > most_bytes:
            raise OSError(f"{path.name} is larger than {most_bytes:,} bytes")
    return content, status
