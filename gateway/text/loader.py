"""The tokenizers of a repository's entries, each read where a fault of its file is a fault of its entry alone."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gateway.text.hanging import NotDone, Work
from gateway.text.panics import panics_as
from gateway.text.tokenizer import Template, TextTokenizer

WAIT_S = 2.0
"""How long to wait for a file's status, and for a tokenizer. Large ones take a second; models that nobody waits for
would be taken for dead if the gateway looked away from them for 4 s."""

Stamp = tuple[int, ...]
"""What changes with a file."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A tokenizer on its way, there, or refused; and what it is made from."""

    stamp: Stamp
    template: Template | None
    tokenizer: Work[TextTokenizer]


class Vocabularies:
    """All that were asked for. Belongs to an event loop."""

    def __init__(self, repository: Path, wait_s: float = WAIT_S) -> None:
        """Read nothing yet."""
        self._repository = repository
        self._wait_s = wait_s
        self._looks: dict[str, Work[Stamp]] = {}
        self._loaded: dict[str, _Loaded] = {}

    async def of(self, entry: str, template: Template | None) -> TextTokenizer:
        """The tokenizer of an entry, as its file is now, or was when it last could be looked at.

        One that could not be made is not tried again until its file changes: the attempt may still be under way, and
        no thread can be ended.

        Raises:
            Exception: its file cannot be read, or is no tokenizer.
            NotDone: that takes longer than that. Later calls do not wait for it, but may find it done.
        """
        file = self._repository / entry / "tokenizer.json"
        loaded = self._loaded.get(entry)
        try:
            stamp = await self._look(entry, file)
        except NotDone:
            if loaded is None:
                raise NotDone(f"{file.name} is not available after {self._wait_s:g} s") from None
        else:
            if loaded is None or (loaded.stamp, loaded.template) != (stamp, template):
                loaded = _Loaded(stamp, template, Work(partial(_load, file, template), self._wait_s))
                self._loaded[entry] = loaded
        try:
            return await loaded.tokenizer.result()
        except NotDone:
            raise NotDone(f"{file.name} is not loaded after {self._wait_s:g} s") from None
        except (OSError, MemoryError):  # which may pass
            self._loaded.pop(entry)
            raise

    def keep(self, entries: Collection[str]) -> None:
        """Forget the tokenizers of all other entries."""
        self._loaded = {entry: loaded for entry, loaded in self._loaded.items() if entry in entries}

    async def _look(self, entry: str, file: Path) -> Stamp:
        """The stamp of a file; one look at a time."""
        look = self._looks.pop(entry, None) or Work(partial(_stamp, file), self._wait_s)
        try:
            return await look.result()
        except NotDone:
            self._looks[entry] = look
            raise


def _stamp(file: Path) -> Stamp:
    status = file.stat()
    # Times alone would do if clocks ticked more often; copies keep the time of change, but not that of the status.
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@panics_as(ValueError)
def _load(file: Path, template: Template | None) -> TextTokenizer:
    return TextTokenizer.from_file(file, template)
