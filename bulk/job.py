"""What a job is: which texts, cut into which shards, and where their vectors go.

A shard is a stretch of a row group, embedded as a whole and written to a file of its own, which appears when it is
complete. So a job that was stopped, anywhere and by anything, goes on with the shards that have no file yet.
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
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import fs

JOB_FILE = "_job.json"
"""Readers of Parquet leave files out that begin so, and take the folder for a data set."""
SUFFIX = ".parquet"
RESULT_COLUMNS = ("embedding", "error")

Vector = NDArray[np.float32]
"""[dimensions]."""


class JobError(Exception):
    """A job that cannot be done as it is asked for."""


class Unavailable(Exception):  # noqa: N818 - it may be there again later
    """The server, or what holds the texts and the results, does not answer for now."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a text has no vector."""

    message: str


class Source(msgspec.Struct, frozen=True):
    """A Parquet file of texts."""

    root: str
    """What was given, a URI or an absolute path: it says how to reach the file."""
    path: str
    """Of the file there, as it was found: a name is no part of a URI, and may hold all that means something in one."""
    size: int
    """In bytes."""
    row_groups: tuple[int, ...]
    """Rows of each."""


class Job(msgspec.Struct, frozen=True):
    """What is asked for; written beside the vectors, so that one folder never holds those of two jobs."""

    model: str
    request: Mapping[str, Any]
    """More fields of each request, as `dimensions` or `input_type`."""
    text: str
    """The column of texts."""
    id: str
    """The column that goes into the results with each vector."""
    shard_rows: int
    """At most."""
    width: int
    """Numbers in a vector."""
    sources: tuple[Source, ...]

    def shards(self) -> Iterator["Shard"]:
        """All of them; the same ones each time."""
        number = 0
        for source in self.sources:
            for group, rows in enumerate(source.row_groups):
                for first in range(0, rows, self.shard_rows):
                    yield Shard(
                        number, source.root, source.path, source.size, group, first, min(self.shard_rows, rows - first)
                    )
                    number += 1


class Shard(msgspec.Struct, frozen=True):
    """Texts that are embedded as a whole."""

    number: int
    root: str
    path: str
    size: int
    """Of the file when the job began, in bytes."""
    row_group: int
    first: int
    """Row of the group."""
    rows: int

    @property
    def name(self) -> str:
        """The file of its vectors."""
        return f"part-{self.number:07}{SUFFIX}"


def find(uris: Sequence[str], columns: Sequence[str]) -> tuple[Source, ...]:
    """Look at the files of texts; of a folder, at all below it whose names end with `.parquet`.

    Raises:
        JobError: a file is missing, is named twice, is not Parquet, or lacks a column.
    """
    found = [(root, path) for root in map(absolute, uris) for path in _files(root)]
    if not found:
        raise JobError(f"no {SUFFIX} file in {', '.join(uris)}")
    (path, times), *_ = Counter(path for _, path in found).most_common(1)
    if times > 1:
        raise JobError(f"{path} is among the texts {times} times")
    return tuple(_source(root, path, columns) for root, path in found)


def absolute(uri: str) -> str:
    """What means the same wherever it is read."""
    return uri if "://" in uri else str(Path(uri).resolve())


def begin(job: Job, output: str) -> list[Shard]:
    """Prepare the folder of the results, or find it as it was left.

    Returns:
        The shards that are still to do.

    Raises:
        JobError: the folder is another job's, it is among the texts, or it cannot be written to.
    """
    if job.id in RESULT_COLUMNS:
        raise JobError(f"the column of ids may not be called {job.id}, as one of the results is")
    system, folder = _resolve(output)
    for root in sorted({source.root for source in job.sources}):
        if folder.startswith(f"{_resolve(root)[1]}/"):
            raise JobError(f"{output} is below {root}: its files would be texts the next time")
    try:
        system.create_dir(folder, recursive=True)
        sizes = _sizes(system, folder)
        parts = {name: size for name, size in sizes.items() if name.endswith(SUFFIX)}
        if JOB_FILE not in sizes:
            if parts:
                raise JobError(f"{output} has {min(parts)} but no {JOB_FILE}: choose another folder")
            _write(output, JOB_FILE, msgspec.json.format(msgspec.json.encode(job)))
        _check_owner(job, output)
    except OSError as exc:
        raise JobError(f"{output}: {exc}") from None
    return [shard for shard in job.shards() if not parts.get(shard.name)]


def _check_owner(job: Job, output: str) -> None:
    """Make sure that the folder is this job's: another one may have begun there at the same time."""
    system, folder = _resolve(output)
    with system.open_input_stream(f"{folder}/{JOB_FILE}") as file:
        content = file.read()
    try:
        former = msgspec.json.decode(content, type=Job)
    except msgspec.DecodeError as exc:
        raise JobError(f"{output}/{JOB_FILE} is broken, choose another folder: {exc}") from None
    changed = [name for name in Job.__struct_fields__ if getattr(former, name) != getattr(job, name)]
    if changed:
        raise JobError(
            f"{output} is of another job: it differs in {', '.join(changed)}; choose another folder, or delete it"
        )


def _sizes(system: fs.FileSystem, folder: str) -> dict[str, int]:
    """Of files. A part of size 0 is what a machine that went down has left of one, and done again."""
    found = system.get_file_info(fs.FileSelector(folder))
    return {info.base_name: info.size for info in found if info.type == fs.FileType.File}


def read(job: Job, shard: Shard) -> tuple[pa.Array, list[str | None]]:
    """A shard's ids and texts; None for null, and for what is not UTF-8.

    Raises:
        JobError: the file is not as large as when the job began, or has other row groups or columns.
        OSError: it cannot be read.
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
    return JobError(f"{path} has changed since the job began")


def _text(value: pa.Scalar) -> str | None:
    try:
        text: str | None = value.as_py()
    except UnicodeDecodeError:  # nobody checks when a file is written
        return None
    return text


def write(job: Job, shard: Shard, output: str, ids: pa.Array, results: Sequence[Vector | Refusal]) -> None:
    """Write a shard's results: the id, `embedding` (float32, or null), and `error` (null where there is a vector).

    Raises:
        JobError: vectors are of another length than they were in the beginning, or the folder is another job's by now.
        OSError: it cannot be written.
    """
    for result in results:
        if not isinstance(result, Refusal) and len(result) != job.width:
            raise JobError(f"the server's vectors had {job.width} numbers in the beginning, and have {len(result)} now")
    _check_owner(job, output)
    empty = np.zeros(job.width, np.float32)
    values = np.concatenate([empty if isinstance(result, Refusal) else result for result in results])
    refused = np.array([isinstance(result, Refusal) for result in results])
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values, pa.float32()), job.width, mask=pa.array(refused))
    errors = pa.array([result.message if isinstance(result, Refusal) else None for result in results], pa.string())
    table = pa.table({job.id: ids, "embedding": vectors, "error": errors})
    sink = pa.BufferOutputStream()
    # Vectors do not compress, and a dictionary of them would only cost time.
    pq.write_table(table, sink, use_dictionary=False, compression={job.id: "zstd", "error": "zstd"})
    _write(output, shard.name, sink.getvalue())


def _write(output: str, name: str, content: bytes | pa.Buffer) -> None:
    """Write a file that is there as a whole or not at all, whoever else writes the same one."""
    system, folder = _resolve(output)
    unfinished = f"{folder}/.{name}.{uuid.uuid4().hex}"
    try:
        with system.open_output_stream(unfinished) as file:
            file.write(content)
        if isinstance(system, fs.LocalFileSystem):
            _sync(unfinished)  # or the name is there after a loss of power, and nothing in the file
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
    """Of an absolute path here, or of a URI that Arrow knows (`s3://`, `gs://`, `hdfs://`)."""
    return _connect(uri) if "://" in uri else (fs.LocalFileSystem(), uri)


@lru_cache(16)  # a client of S3 takes its time to begin
def _connect(uri: str) -> tuple[fs.FileSystem, str]:
    if urlsplit(uri).password is not None:
        raise JobError("a URI may not hold a password, since it is written down: give it by the environment")
    try:
        system, path = fs.FileSystem.from_uri(uri)
    except (OSError, pa.ArrowException) as exc:
        raise JobError(f"{uri}: {exc}") from None
    return system, path.rstrip("/")


def _files(uri: str) -> list[str]:
    """Paths in its file system."""
    try:
        system, path = _resolve(uri)
        info = system.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            raise JobError(f"{uri}: there is no such file or folder")
        if info.type == fs.FileType.File:
            return [path]
        below = system.get_file_info(fs.FileSelector(path, recursive=True))
    except (OSError, pa.ArrowException) as exc:
        raise JobError(f"{uri}: {exc}") from None
    names = (one.path.removeprefix(path) for one in below if one.type == fs.FileType.File)
    # Readers of Parquet leave out what begins so, too: it is unfinished, or of another kind.
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
            raise JobError(f"{path} has {problem} {json.dumps(column)}; it has {', '.join(map(json.dumps, names))}")
    if not (pa.types.is_string(types[columns[0]]) or pa.types.is_large_string(types[columns[0]])):
        raise JobError(f"{path}: column {json.dumps(columns[0])} is of {types[columns[0]]}, not of strings")
    return Source(root, path, size, groups)


@lru_cache(1)  # the shards of a row group come one after the other
def _row_group(root: str, path: str, size: int, number: int, columns: tuple[str, ...]) -> pa.Table:
    with _resolve(root)[0].open_input_file(path) as file:
        if file.size() != size:
            raise _changed(path)
        return pq.ParquetFile(file).read_row_group(number, columns=[*{*columns}])
