"""API keys: from the environment and a file, which may change while the gateway runs. Only their digests are kept."""

import hashlib
import hmac
import logging
import math
import time
from collections.abc import Iterable
from pathlib import Path

log = logging.getLogger(__name__)

REREAD_S = 1.0


def read(file: Path) -> frozenset[str]:
    """The keys in a file, one a line; lines that begin with # are none.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is no text.
    """
    lines = (line.strip() for line in file.read_text("utf-8-sig").splitlines())
    return frozenset(line for line in lines if line and not line.startswith("#"))


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
        self._seen: tuple[int, int] | None = None
        self._reread_s = reread_s
        self._looked_at = -math.inf
        self._refresh()

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
        if self._file is None or time.monotonic() - self._looked_at < self._reread_s:
            return
        self._looked_at = time.monotonic()
        try:
            status = self._file.stat()
            seen = (status.st_mtime_ns, status.st_ino)
            if seen == self._seen:
                return
            keys = read(self._file)
        except (OSError, UnicodeDecodeError) as exc:
            log.warning("the file of keys cannot be read, those that it held stay good: %s", type(exc).__name__)
            return
        self._seen = seen
        self._of_file = [_digest(key.encode()) for key in keys]
        log.info("%d keys in the file of keys", len(keys))


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
