"""Reads files that may be replaced while the gateway runs."""

import os
import stat
from pathlib import Path


def read(path: Path, max_bytes: int) -> tuple[bytes, os.stat_result]:
    """Read a regular file and its status, without blocking on a FIFO or a device in its place.

    Raises:
        OSError: the file cannot be read, is not a regular file, or is larger than `max_bytes`.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123 - a descriptor
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path.name} is not a regular file")
        content = file.read(max_bytes + 1) if status.st_size <= max_bytes else b""
        if max(status.st_size, len(content)) > max_bytes:
            raise OSError(f"{path.name} is larger than {max_bytes:,} bytes")
    return content, status
