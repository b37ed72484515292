"""Files and batches of requests on disk, each below the folder of its API key.

What a reader may see is written whole and renamed into place, so nothing is ever read half written: a file exists once
its description does, and a batch likewise. Only the worker that holds the lock of a key's folder writes the state of
its batches; any worker may add one, or ask for its end.
"""

import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator, Set
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
from msgspec import Struct, field

from gateway.errors import InvalidRequest, NoSuchObject, RequestTooLarge, quoted

FILE_ID = re.compile(r"file-[0-9a-f]{32}")
BATCH_ID = re.compile(r"batch_[0-9a-f]{32}")
NO_KEY = "no-key"
"""The folder of a server without API keys."""
KEY = re.compile(r"[0-9a-f]{64}")
"""The folder of an API key: its SHA-256 digest."""
RETENTION_S = 30 * 24 * 3600
"""How long finished batches are kept, and files whose client does not say how long."""
MAX_FILES = 10_000
"""Files of a key."""
MAX_UNFINISHED = 100
"""Unfinished batches of a key."""
ABANDONED_S = 24 * 3600
"""Content that belongs to no file after so long is left from an upload that was cut off."""

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
FINISHED = frozenset({"failed", "completed", "expired", "cancelled"})

T = TypeVar("T")


class Limits(Struct, frozen=True):
    """The bytes on disk."""

    file: int
    """Of an uploaded file."""
    key: int
    """Of all files of a key."""
    all: int
    """Of the files of all keys."""


class StoredFile(Struct, frozen=True):
    """The description of a file. Times are Unix times in seconds."""

    id: str
    name: str
    """As the client sent it; it is no path."""
    purpose: str
    size: int
    """In bytes."""
    created_at: int
    expires_at: int


class Batch(Struct, frozen=True):
    """What a client asked for. Times are Unix times in seconds."""

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    output_file_id: str
    error_file_id: str
    """Two files that exist once the batch is finished, if it has lines for them."""
    output_lasts_s: int
    metadata: dict[str, str] | None = None


class Problem(Struct, frozen=True):
    """Why a batch fails, or waits."""

    code: str
    message: str
    line: int | None = None
    """Of the input file, from 1."""
    param: str | None = None


class Progress(Struct):
    """The state of a batch. Only the worker that runs it writes it."""

    status: Status = "validating"
    total: int = 0
    """Requests of the batch."""
    completed: int = 0
    failed: int = 0
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    finished_at: int | None = None
    has_output: bool = False
    has_errors: bool = False
    problems: list[Problem] = field(default_factory=list)


def new_id(prefix: str) -> str:
    """A new id. Later ones are greater."""
    return f"{prefix}{time.time_ns():016x}{secrets.token_hex(8)}"


class Owner:
    """The files and batches of one API key. All methods block."""

    def __init__(self, store: "Store", key: str) -> None:
        """Use the folder of a key.

        Args:
            store: has the folder.
            key: the id of an API key; empty on a server without keys.
        """
        self.key = key
        self._store = store
        self._folder = store.folder / (key or NO_KEY)
        self._files = self._folder / "files"
        self._batches = self._folder / "batches"

    def prepare(self) -> None:
        """Create the folders."""
        for folder in (self._files, self._batches):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def lock(self) -> int | None:
        """Lock the batches for this process; None if another process has them. Close the descriptor to unlock."""
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def room(self) -> int:
        """Bytes that may still be written."""
        limits = self._store.limits
        return min(limits.key - self.size(), limits.all - sum(owner.size() for owner in self._store.owners()))

    def size(self) -> int:
        """Bytes of all files, unfinished ones included."""
        total = 0
        with suppress(FileNotFoundError):
            for entry in os.scandir(self._files):
                with suppress(FileNotFoundError):
                    total += entry.stat().st_size
        return total

    def content(self, file_id: str) -> Path:
        """Where the content of a file is, or will be."""
        return self._files / f"{file_id}.jsonl"

    def add_file(self, file: StoredFile) -> None:
        """Make a file visible, whose content is complete."""
        _write(self._files / f"{file.id}.json", file)

    def file(self, file_id: str) -> StoredFile:
        """The description of a file.

        Raises:
            NoSuchObject: there is no such file.
        """
        path = self._files / f"{file_id}.json"
        found = _read(path, StoredFile) if FILE_ID.fullmatch(file_id) else None
        if found is None or found.expires_at <= time.time():
            raise NoSuchObject(f"there is no file {quoted(file_id)}")
        return found

    def check_content(self, file_id: str) -> None:
        """Raise NoSuchObject if the content of a file is gone. The input of an unfinished batch does not expire."""
        if not self.content(file_id).exists():
            raise NoSuchObject(f"there is no file {quoted(file_id)}")

    def files(self) -> list[StoredFile]:
        """All files, the oldest first."""
        now = time.time()
        found = (_read(path, StoredFile) for path in self._descriptions(self._files, FILE_ID))
        files = [file for file in found if file is not None and file.expires_at > now]
        return sorted(files, key=lambda file: (file.created_at, file.id))

    def check_number(self) -> None:
        """Raise RequestTooLarge if there may be no further file."""
        if sum(1 for _ in self._descriptions(self._files, FILE_ID)) >= MAX_FILES:
            raise RequestTooLarge(f"this API key has {MAX_FILES} files, which is the limit; delete some")

    def delete_file(self, file_id: str) -> None:
        """Delete a file.

        Raises:
            NoSuchObject: there is no such file.
            InvalidRequest: an unfinished batch reads it.
        """
        self.file(file_id)
        for batch, _ in self.unfinished():
            if batch.input_file_id == file_id:
                raise InvalidRequest(
                    f"file {file_id} is the input of batch {batch.id}, which is not finished; cancel it first"
                )
        self._remove_file(file_id)

    def add_batch(self, batch: Batch) -> None:
        """Add a batch, which a worker will find.

        Raises:
            RequestTooLarge: too many batches are unfinished.
        """
        if sum(1 for _ in self.unfinished()) >= MAX_UNFINISHED:
            raise RequestTooLarge(f"this API key has {MAX_UNFINISHED} unfinished batches, which is the limit")
        _write(self._batches / f"{batch.id}.json", batch)

    def batch(self, batch_id: str) -> Batch:
        """A batch.

        Raises:
            NoSuchObject: there is no such batch.
        """
        found = _read(self._batches / f"{batch_id}.json", Batch) if BATCH_ID.fullmatch(batch_id) else None
        if found is None:
            raise NoSuchObject(f"there is no batch {quoted(batch_id)}")
        return found

    def batches(self) -> list[Batch]:
        """All batches, the oldest first."""
        found = (_read(path, Batch) for path in self._descriptions(self._batches, BATCH_ID))
        return [batch for batch in found if batch is not None]

    def unfinished(self) -> Iterator[tuple[Batch, Progress]]:
        """The batches that are not finished, the oldest first."""
        for path in self._descriptions(self._batches, BATCH_ID):
            if path.stem in self._store.finished:
                continue
            batch = _read(path, Batch)
            if batch is None:
                continue
            progress = self.progress(batch.id)
            if progress.status in FINISHED:
                self._store.finished.add(batch.id)
            else:
                yield batch, progress

    def due(self) -> list[tuple[Batch, Progress]]:
        """The unfinished batches that are cancelled, or whose time is over."""
        now = time.time()
        return [
            (batch, progress)
            for batch, progress in self.unfinished()
            if batch.expires_at <= now or self.cancelled_at(batch.id) is not None
        ]

    def progress(self, batch_id: str) -> Progress:
        """The state of a batch that exists, as the worker that runs it has written it last."""
        return _read(self._batches / f"{batch_id}.progress", Progress) or Progress()

    def set_progress(self, batch_id: str, progress: Progress) -> None:
        """Write the state of a batch. Only the holder of the lock may."""
        _write(self._batches / f"{batch_id}.progress", progress)

    def cancel(self, batch_id: str) -> None:
        """Ask for the end of a batch."""
        path = self._batches / f"{batch_id}.cancel"
        if not path.exists():
            _write(path, int(time.time()))

    def cancelled_at(self, batch_id: str) -> int | None:
        """The time at which the end of a batch was asked for."""
        return _read(self._batches / f"{batch_id}.cancel", int)

    def clean(self) -> None:
        """Remove files that have expired, batches that ended long ago, and what is left of uploads that were cut off.
        Only the holder of the lock may."""
        now = time.time()
        waiting = [batch for batch, _ in self.unfinished()]
        inputs = {batch.input_file_id for batch in waiting}
        for path in self._descriptions(self._files, FILE_ID):
            file = _read(path, StoredFile)
            if file is not None and file.expires_at <= now and file.id not in inputs:
                self._remove_file(file.id)
        unfinished = {batch.id for batch in waiting}
        for batch in self.batches():
            if batch.id not in unfinished and max(batch.created_at, batch.expires_at) < now - RETENTION_S:
                for suffix in ("json", "progress", "cancel"):
                    (self._batches / f"{batch.id}.{suffix}").unlink(missing_ok=True)
        for path in self._files.iterdir():
            with suppress(FileNotFoundError):
                is_content = path.with_suffix(".json").exists()
                if not is_content and path.stat().st_mtime < now - ABANDONED_S and not unfinished:
                    path.unlink()

    def _remove_file(self, file_id: str) -> None:
        (self._files / f"{file_id}.json").unlink(missing_ok=True)
        self.content(file_id).unlink(missing_ok=True)

    @staticmethod
    def _descriptions(folder: Path, ids: re.Pattern[str]) -> list[Path]:
        try:
            paths = [path for path in folder.iterdir() if path.suffix == ".json" and ids.fullmatch(path.stem)]
        except FileNotFoundError:
            return []
        return sorted(paths)


class Store:
    """The folder of all files and batches."""

    def __init__(self, folder: Path, limits: Limits, endpoints: Set[str] = frozenset()) -> None:
        """Use a folder, which need not exist.

        Args:
            folder: for nothing else.
            limits: of the files.
            endpoints: paths of requests that batches may have.
        """
        self.folder = folder
        self.limits = limits
        self.endpoints = endpoints
        self.finished: set[str] = set()
        """Ids of batches that are known to be finished, so that they need not be read again."""

    def owner(self, key: str) -> Owner:
        """The files and batches of an API key; empty on a server without keys."""
        return Owner(self, key)

    def owners(self) -> list[Owner]:
        """All that have files or batches."""
        try:
            names = sorted(path.name for path in self.folder.iterdir() if path.is_dir())
        except FileNotFoundError:
            return []
        return [Owner(self, "" if name == NO_KEY else name) for name in names if name == NO_KEY or KEY.fullmatch(name)]


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, value: object) -> None:
    """Replace a file durably: it has its old or its new content, whatever happens."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with unfinished.open("wb") as file:
            file.write(msgspec.json.encode(value))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError:
        with suppress(OSError):
            unfinished.unlink()
        raise
    sync_folder(path.parent)


def _read(path: Path, kind: type[T]) -> T | None:
    """What a file holds; None if there is no such file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
