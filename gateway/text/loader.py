"""Loads the tokenizers of a model repository. A bad or hanging file affects only its own entry."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gateway.text.hanging import NotDone, Work
from gateway.text.panics import panics_as
from gateway.text.tokenizer import Template, TextTokenizer

WAIT_S = 2.0
"""Maximum time to wait for a file's status and for a tokenizer to load. Large tokenizers take 1 s; after 4 s without a
check, models count as unresponsive."""

Stamp = tuple[int, ...]
"""Device, inode, size and times of a file: it changes when the file does."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A tokenizer that is loading, loaded or failed, and what it was made from."""

    stamp: Stamp
    template: Template | None
    trusted: str
    tokenizer: Work[TextTokenizer]


class TokenizerLoader:
    """Loads tokenizers on demand and caches them. Use it in one event loop only."""

    def __init__(self, repository: Path, wait_s: float = WAIT_S) -> None:
        self._repository = repository
        self._wait_s = wait_s
        self._pending: dict[str, Work[Stamp]] = {}
        self._loaded: dict[str, _Loaded] = {}

    async def load(self, entry: str, template: Template | None, trusted: str = "") -> TextTokenizer:
        """Return the tokenizer of an entry. It is loaded again when its file changes.

        `trusted` holds the special tokens that stand for images in the rows of a template or chat.

        A failed load is not repeated until the file changes: the attempt may still be running, and threads cannot be
        stopped.

        Raises:
            Exception: the file cannot be read, or is not a tokenizer.
            NotDone: loading takes longer than `wait_s`. Later calls do not wait, but return the tokenizer once it is
                loaded.
        """
        file = self._repository / entry / "tokenizer.json"
        loaded = self._loaded.get(entry)
        try:
            stamp = await self._stat(entry, file)
        except NotDone:
            if loaded is None:
                raise NotDone(f"{file.name} is not available after {self._wait_s:g} s") from None
        else:
            if loaded is None or (loaded.stamp, loaded.template, loaded.trusted) != (stamp, template, trusted):
                work = Work(partial(_load, file, template, trusted), self._wait_s)
                loaded = _Loaded(stamp, template, trusted, work)
                self._loaded[entry] = loaded
        try:
            return await loaded.tokenizer.result()
        except NotDone:
            raise NotDone(f"{file.name} is not loaded after {self._wait_s:g} s") from None
        except (OSError, MemoryError):  # may be temporary
            self._loaded.pop(entry)
            raise

    def retain(self, entries: Collection[str]) -> None:
        """Drop the tokenizers of all other entries."""
        self._loaded = {entry: loaded for entry, loaded in self._loaded.items() if entry in entries}

    async def _stat(self, entry: str, file: Path) -> Stamp:
        """The stamp of an entry's file. A lookup that hangs is awaited again instead of repeated."""
        work = self._pending.pop(entry, None) or Work(partial(_stamp, file), self._wait_s)
        try:
            return await work.result()
        except NotDone:
            self._pending[entry] = work
            raise


def _stamp(file: Path) -> Stamp:
    status = file.stat()
    # Times alone are too coarse. Copies may keep st_mtime but not st_ctime.
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@panics_as(ValueError)
def _load(file: Path, template: Template | None, trusted: str) -> TextTokenizer:
    return TextTokenizer.from_file(file, template, trusted)
