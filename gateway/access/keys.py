"""API keys: from the environment and a file, which may change while the gateway runs. Only their digests are kept."""

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
MAX_BYTES = 2**20
"""Of the file of keys."""
WAIT_S = 0.05
"""How long a request waits for the file to be read, which takes 0.1 ms unless what it is on hangs."""


def read(file: Path) -> frozenset[str]:
    """The keys in a file, one a line; lines that begin with # are none.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger than MAX_BYTES.
        UnicodeDecodeError: it is no text.
    """
    return _parsed(files.read(file, MAX_BYTES)[0])


class Keys:
    """All keys that are good now."""

    def __init__(self, given: Iterable[str], file: Path | None, reread_s: float = REREAD_S) -> None:
        """Read the file.

        Args:
            given: keys that stay good.
            file: of further ones.
            reread_s: how often to look whether it has changed.
        """
        self._given = [_digest(key.encode()) for key in given]
        self._file = file
        self._of_file: list[bytes] = []
        self._seen = b""
        """The digest of all of the file."""
        self._complaint = ""
        self._is_open = False
        self._reread_s = reread_s
        self._looked_at = -math.inf
        self._reader: Thread | None = None
        if file is not None:
            self._read(file)

    @property
    def are_asked_for(self) -> bool:
        """Whether a request needs one."""
        return bool(self._given) or self._file is not None

    def owner(self, key: bytes) -> str | None:
        """A name for a good key that does not give it away; None for any other."""
        self._refresh()
        given = _digest(key)
        # Compares with every key, so that the time taken tells nothing of which one came near.
        found = sum(hmac.compare_digest(given, digest) for digest in (*self._given, *self._of_file))
        return given.hex() if found else None

    def _refresh(self) -> None:
        """Have the file read, where that is due. What hangs is waited for once, and then read whenever it answers."""
        if self._file is None or time.monotonic() - self._looked_at < self._reread_s:
            return
        self._looked_at = time.monotonic()
        if self._reader is None or not self._reader.is_alive():
            self._reader = Thread(target=self._read, args=(self._file,), daemon=True)
            self._reader.start()
            self._reader.join(WAIT_S)

    def _read(self, file: Path) -> None:
        """Take the keys of the file: all of it is read, since times and sizes do not tell of every change."""
        try:
            content, status = files.read(file, MAX_BYTES)
            keys = _parsed(content)
        except (OSError, UnicodeDecodeError) as exc:
            if (complaint := type(exc).__name__) != self._complaint:
                log.warning("the file of keys cannot be read, those that it held stay good: %s", complaint)
            self._complaint = complaint
            return
        self._complaint = ""
        is_open = bool(status.st_mode & stat.S_IWOTH)
        if is_open and not self._is_open:
            log.warning("every user of this machine may write to the file of keys")
        self._is_open = is_open
        if (seen := _digest(content)) != self._seen:
            self._seen = seen
            self._of_file = [_digest(key.encode()) for key in keys]
            log.info("%d keys in the file of keys", len(keys))


def _parsed(content: bytes) -> frozenset[str]:
    lines = (line.strip() for line in content.decode("utf-8-sig").splitlines())
    return frozenset(line for line in lines if line and not line.startswith("#"))


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
