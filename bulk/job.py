"""A job: the texts, their shards, and the folder of their vectors.

A shard is a range of rows in a row group. Its results are written to one file, which appears only when it is complete.
A job that was stopped for any reason resumes with the shards that have no file yet.
"""

import json
import os
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from bulk.kinds import COLUMNS, Kind, Result, Shape, columns

JOB_FILE = "_job.json"
"""Parquet readers treat the folder as one data set, and skip files whose name begins with an underscore."""
SUFFIX = ".parquet"


class JobError(Exception):
    """The job cannot be done as specified."""


class Unavailable(Exception):  # noqa: N818 - it may be available later
    """The server or the storage is temporarily unavailable."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reason why a text has no result."""

    message: str


class Source(msgspec.Struct, frozen=True):
    """A Parquet file of texts."""

    root: str
    """The URI or absolute path on the command line, which identifies the file system."""
    path: str
    """The path in that file system. It is kept apart from the URI, since it may contain any character."""
    size: int
    """Bytes."""
    row_groups: tuple[int, ...]
    """The number of rows of each row group."""


class Job(msgspec.Struct, frozen=True):
    """The specification of a job. It is stored with the vectors, so that a folder never holds those of two jobs."""

    model: str
    request: Mapping[str, Any]
    """Additional fields of each request, such as `dimensions` or `input_type`."""
    text: str
    """The column of texts."""
    id: str
    """The column that is copied to the results."""
    shard_rows: int
    """The maximum number of rows of a shard."""
    width: int
    """Dimensions of a dense vector; 0 if none is requested."""
    sources: tuple[Source, ...]
    kinds: tuple[Kind, ...] = ("dense",)
    token_width: int = 0
    """Dimensions of a token's vector; 0 if none is requested."""
    labels: tuple[str, ...] = ()
    """The names of all labels, sorted; empty if they are not requested."""

    @property
    def shape(self) -> Shape:
        """What all results share."""
        return Shape(self.width, self.token_width, self.labels)

    def shards(self) -> Iterator["Shard"]:
        """All shards, in the same order each time."""
        number = 0
        for source in self.sources:
            for group, rows in enumerate(source.row_groups):
                for first in range(0, rows, self.shard_rows):
                    yield Shard(
                        number, source.root, source.path, source.size, group, first, min(self.shard_rows, rows - first)
                    )
                    number += 1


class Shard(msgspec.Struct, frozen=True):
    """A range of rows in a row group."""

    number: int
    root: str
    path: str
    size: int
    """The size of the file when the job started, in bytes."""
    row_group: int
    first: int
    """The first row, counted within the row group."""
    rows: int

    @property
    def name(self) -> str:
        """The name of the file of results."""
        return f"part-{self.number:07}{SUFFIX}"


def find(uris: Sequence[str], columns: Sequence[str]) -> tuple[Source, ...]:
    """Inspect the files of texts. A folder stands for all files below it whose names end in `.parquet`.

    Raises:
        JobError: a file is missing, occurs twice, is not Parquet, or lacks a column.
    """
    found = [(root, path) for root in map(absolute, uris) for path in _files(root)]
    if not found:
        raise JobError(f"no {SUFFIX} file in {', '.join(uris)}")
    counts = Counter(path for _, path in found)
    if duplicates := [path for path, count in counts.items() if count > 1]:
        raise JobError(f"{duplicates[0]} is listed {counts[duplicates[0]]} times")
    return tuple(_source(root, path, columns) for root, path in found)


def absolute(uri: str) -> str:
    """A URI unchanged, or the absolute form of a path."""
    return uri if "://" in uri else str(Path(uri).resolve())


def begin(job: Job, output: str) -> list[Shard]:
    """Create the output folder, or check that it belongs to this job.

    Returns:
        The shards that have no results yet.

    Raises:
        JobError: the folder belongs to another job, is inside a folder of texts, or cannot be written to.
    """
    if job.id in {*(COLUMNS[kind][0] for kind in job.kinds), "error"}:
        raise JobError(f"the id column must not be named {job.id}: the results have a column of that name")
    system, folder = _resolve(output)
    for root in sorted({source.root for source in job.sources}):
        if folder.startswith(f"{_resolve(root)[1]}/"):
            raise JobError(f"{output} is inside {root}: the next run would read its files as texts")
    try:
        system.create_dir(folder, recursive=True)
        sizes = _sizes(system, folder)
        parts = {name: size for name, size in sizes.items() if name.endswith(SUFFIX)}
        if JOB_FILE not in sizes:
            if parts:
                raise JobError(f"{output} contains {min(parts)} but no {JOB_FILE}; choose another folder")
            _write(output, JOB_FILE, msgspec.json.format(msgspec.json.encode(job)))
        _check_owner(job, output)
    except OSError as exc:
        raise JobError(f"{output}: {exc}") from None
    return [shard for shard in job.shards() if not parts.get(shard.name)]


def _check_owner(job: Job, output: str) -> None:
    """Check that the folder belongs to this job: another job may have started in it at the same time."""
    system, folder = _resolve(output)
    with system.open_input_stream(f"{folder}/{JOB_FILE}") as file:
        content = file.read()
    try:
        former = msgspec.json.decode(content, type=Job)
    except msgspec.DecodeError as exc:
        raise JobError(f"{output}/{JOB_FILE} is not valid: {exc}; choose another folder") from None
    changed = [name for name in Job.__struct_fields__ if getattr(former, name) != getattr(job, name)]
    if changed:
        raise JobError(
            f"{output} belongs to another job, which differs in {', '.join(changed)}; use another folder or delete it"
        )


def _sizes(system: fs.FileSystem, folder: str) -> dict[str, int]:
    """The sizes of the files in a folder. A part of size 0 was left by a machine that crashed, and is written again."""
    infos = system.get_file_info(fs.FileSelector(folder))
    return {info.base_name: info.size for info in infos if info.type == fs.FileType.File}


def read(job: Job, shard: Shard) -> tuple[pa.Array, list[str | None]]:
    """Read a shard's ids and texts. A text is None if it is null or not UTF-8.

    Raises:
        JobError: the file has another size than when the job started, or other row groups or columns.
        OSError: the file cannot be read.
    """
    try:
        table = _row_group(shard.root, shard.path, shard.size, shard.row_group, (job.id, job.text))
    except pa.ArrowException as exc:
        raise JobError(f"{shard.path}: {exc}") from None
    rows = table.slice(shard.first, shard.rows)
    if rows.num_rows != shard.rows or not {job.id, job.text} <= {*rows.column_names}:
        raise _changed(shard.path)
    return rows.column(job.id).combine_chunks(), [_text(value) for value in rows.column(job.text)]


def _changed(path: str) -> JobError:
    return JobError(f"{path} has changed since the job started")


def _text(value: pa.Scalar) -> str | None:
    try:
        text: str | None = value.as_py()
    except UnicodeDecodeError:  # Parquet writers do not check it
        return None
    return text


def write(job: Job, shard: Shard, output: str, ids: pa.Array, results: Sequence[Result | Refusal]) -> None:
    """Write a shard's results: the id, a column for each kind, and `error`, which is null where there is a result.

    Raises:
        JobError: results have another shape than when the job started, or the folder now belongs to another job.
        OSError: the file cannot be written.
    """
    found = [None if isinstance(result, Refusal) else result for result in results]
    if change := next((change for result in found if result and (change := job.shape.difference(result))), None):
        raise JobError(change)
    _check_owner(job, output)
    errors = pa.array([result.message if isinstance(result, Refusal) else None for result in results], pa.string())
    table = pa.table({job.id: ids, **columns(job.kinds, found, job.shape), "error": errors})
    sink = pa.BufferOutputStream()
    # Vectors are not compressible, and a dictionary of them would only take time.
    pq.write_table(table, sink, use_dictionary=False, compression={job.id: "zstd", "error": "zstd"})
    _write(output, shard.name, sink.getvalue())


def _write(output: str, name: str, content: bytes | pa.Buffer) -> None:
    """Write a file atomically, even if another process writes the same one."""
    system, folder = _resolve(output)
    unfinished = f"{folder}/.{name}.{uuid.uuid4().hex}"
    try:
        with system.open_output_stream(unfinished) as file:
            file.write(content)
        if isinstance(system, fs.LocalFileSystem):
            _sync(unfinished)  # otherwise the file could be empty after a power failure
        system.move(unfinished, f"{folder}/{name}")
    except OSError:
        with suppress(OSError):
            system.delete_file(unfinished)
        raise


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system and path of an absolute local path, or of a URI that Arrow supports (`s3://`, `gs://`, ...)."""
    return _connect(uri) if "://" in uri else (fs.LocalFileSystem(), uri)


@lru_cache(16)  # creating an S3 client takes long
def _connect(uri: str) -> tuple[fs.FileSystem, str]:
    if urlsplit(uri).password is not None:
        raise JobError("a URI must not contain a password, since URIs are stored; use environment variables")
    try:
        system, path = fs.FileSystem.from_uri(uri)
    except (OSError, pa.ArrowException) as exc:
        raise JobError(f"{uri}: {exc}") from None
    return system, path.rstrip("/")


def _files(uri: str) -> list[str]:
    """The paths of a file, or of the Parquet files in a folder, in their file system."""
    try:
        system, path = _resolve(uri)
        info = system.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            raise JobError(f"{uri}: no such file or folder")
        if info.type == fs.FileType.File:
            return [path]
        below = system.get_file_info(fs.FileSelector(path, recursive=True))
    except (OSError, pa.ArrowException) as exc:
        raise JobError(f"{uri}: {exc}") from None
    names = (info.path.removeprefix(path) for info in below if info.type == fs.FileType.File)
    # Skip hidden files and those that begin with an underscore, as Parquet readers do.
    return sorted(path + name for name in names if name.endswith(SUFFIX) and "/_" not in name and "/." not in name)


def _source(root: str, path: str, columns: Sequence[str]) -> Source:
    try:
        with _resolve(root)[0].open_input_file(path) as file:
            size = file.size()
            parquet = pq.ParquetFile(file)
            names = parquet.schema_arrow.names
            types = dict(zip(names, parquet.schema_arrow.types, strict=True))
            groups = tuple(parquet.metadata.row_group(i).num_rows for i in range(parquet.metadata.num_row_groups))
    except (OSError, pa.ArrowException) as exc:
        raise JobError(f"{path}: {exc}") from None
    for column in columns:
        if names.count(column) != 1:
            problem = "several columns" if column in types else "no column"
            available = ", ".join(map(json.dumps, names))
            raise JobError(f"{path} has {problem} {json.dumps(column)}; its columns are {available}")
    if not (pa.types.is_string(types[columns[0]]) or pa.types.is_large_string(types[columns[0]])):
        raise JobError(f"{path}: column {json.dumps(columns[0])} has type {types[columns[0]]}, not string")
    return Source(root, path, size, groups)


@lru_cache(1)  # the shards of a row group are consecutive
def _row_group(root: str, path: str, size: int, number: int, columns: tuple[str, ...]) -> pa.Table:
    with _resolve(root)[0].open_input_file(path) as file:
        if file.size() != size:
            raise _changed(path)
        return pq.ParquetFile(file).read_row_group(number, columns=[*{*columns}])
