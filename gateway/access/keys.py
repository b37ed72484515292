"""API keys from the environment and from a file, which may change while the gateway runs. Only SHA-256 digests are
kept."""

import hashlib
import hmac
import logging
import math
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from threading import Thread

from gateway import files

log = logging.getLogger(__name__)

REREAD_S = 1.0
"""How often to check the key file for changes."""
MAX_BYTES = 2**20
"""The largest key file."""
WAIT_S = 0.05
"""How long a request waits for the key file to be read. Reading takes 0.1 ms unless the file system hangs."""


def read(file: Path) -> frozenset[str]:
    """The keys in a file, one per line. Lines that begin with # are comments.

    Raises:
        OSError: the file cannot be read, is not a regular file, or is larger than MAX_BYTES.
        UnicodeDecodeError: the file is not UTF-8.
    """
    return _parse(files.read(file, MAX_BYTES)[0])


class Keys:
    """The valid API keys."""

    def __init__(self, keys: Iterable[str], file: Path | None, reread_s: float = REREAD_S) -> None:
        """Read the key file.

        Args:
            keys: valid for as long as the gateway runs.
            file: holds more keys.
            reread_s: how often to check the file for changes.
        """
        self._fixed = [_digest(key.encode()) for key in keys]
        self._file = file
        self._from_file: list[bytes] = []
        self._file_digest = b""
        self._last_error = ""
        self._is_world_writable = False
        self._reread_s = reread_s
        self._checked_at = -math.inf
        self._reader: Thread | None = None
        if file is not None:
            self._read(file)

    @property
    def required(self) -> bool:
        """Whether requests need an API key."""
        return bool(self._fixed) or self._file is not None

    def owner(self, key: bytes) -> str | None:
        """The digest of a valid key, which identifies it without revealing it; None for an invalid key."""
        self._refresh()
        digest = _digest(key)
        # Compare with every key, so that the time taken does not depend on which one matches.
        matches = sum(hmac.compare_digest(digest, valid) for valid in (*self._fixed, *self._from_file))
        return digest.hex() if matches else None

    def _refresh(self) -> None:
        """Read the file again if it is due. If the read hangs, only one request waits, and only for WAIT_S."""
        if self._file is None or time.monotonic() - self._checked_at < self._reread_s:
            return
        self._checked_at = time.monotonic()
        if self._reader is None or not self._reader.is_alive():
            self._reader = Thread(target=self._read, args=(self._file,), daemon=True)
            self._reader.start()
            self._reader.join(WAIT_S)

    def _read(self, file: Path) -> None:
        """Read the whole file: its time and size do not reveal every change."""
        try:
            content, status = files.read(file, MAX_BYTES)
            keys = _parse(content)
        except (OSError, UnicodeDecodeError) as exc:
            if (error := type(exc).__name__) != self._last_error:
                log.warning("cannot read the API key file; the keys read before stay valid: %s", error)
            self._last_error = error
            return
        self._last_error = ""
        is_world_writable = bool(status.st_mode & stat.S_IWOTH)
        if is_world_writable and not self._is_world_writable:
            log.warning("the API key file is writable by every user of this machine")
        self._is_world_writable = is_world_writable
        if (file_digest := _digest(content)) != self._file_digest:
            self._file_digest = file_digest
            self._from_file = [_digest(key.encode()) for key in keys]
            log.info("read %d keys from the API key file", len(keys))


def _parse(content: bytes) -> frozenset[str]:
    lines = (line.strip() for line in content.decode("utf-8-sig").splitlines())
    return frozenset(line for line in lines if line and not line.startswith("#"))


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
