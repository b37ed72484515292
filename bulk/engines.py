"""Processes shards: one after another in this process, or concurrently on a Ray cluster."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec

from bulk.client import NO_TEXT, Endpoint, embed, ignore_progress
from bulk.job import Job, JobError, Refusal, Shard, Unavailable, read, write


class Done(msgspec.Struct, frozen=True, tag=True):
    """A shard whose results are written."""

    shard: int
    rows: int
    refused: int
    """The number of rows without a result."""
    example: str | None
    """The reason for one of them, preferably one other than a missing text."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """A shard without results."""

    message: str
    is_permanent: bool
    """Whether a retry would fail, too."""


def embed_shard(
    job: Job, endpoint: Endpoint, output: str, shard: Shard, advance: Callable[[int], object] = ignore_progress
) -> Done:
    """Read, embed and write a shard. This is idempotent: it always writes the same file.

    Raises:
        JobError: the source file has changed, or the server rejects the API key or the model.
        Unavailable: the server failed for longer than `patience_s`, or the storage failed.
    """
    try:
        ids, texts = read(job, shard)
        results = asyncio.run(embed(endpoint, texts, advance))
        write(job, shard, output, ids, results)
    except OSError as exc:
        raise Unavailable(f"part {shard.number}: {exc}") from None
    refusals = [result.message for result in results if isinstance(result, Refusal)]
    example = next((message for message in refusals if message != NO_TEXT), NO_TEXT) if refusals else None
    return Done(shard.number, shard.rows, len(refusals), example)


def run_locally(
    job: Job, endpoint: Endpoint, output: str, shards: Sequence[Shard], advance: Callable[[int], object]
) -> Iterator[Done]:
    """Process one shard after another in this process. `advance` is called with the number of texts just completed."""
    for shard in shards:
        yield embed_shard(job, endpoint, output, shard, advance)


def run_on_ray(
    job: Job,
    endpoint: Endpoint,
    output: str,
    shards: Sequence[Shard],
    advance: Callable[[int], object],
    concurrency: int,
) -> Iterator[Done]:
    """Process shards as Ray Data tasks on the machines of a cluster, `concurrency` at a time.

    Each task reads texts from the storage and writes results to it, so every machine needs access to both. Ray retries
    the shards of lost machines. An error in a shard ends the job, as it does locally.
    """
    if not shards:
        return
    try:
        import ray  # noqa: PLC0415 - an optional dependency
    except ModuleNotFoundError:
        raise JobError("Ray is not installed: pip install 'ray[data]'") from None
    ray.data.DataContext.get_current().enable_progress_bars = False
    data = ray.data.from_items([msgspec.to_builtins(shard) for shard in shards], override_num_blocks=len(shards))
    done = data.map(partial(_embed_row, job, endpoint, output), concurrency=concurrency, num_cpus=1)
    for row in done.iter_rows():
        result = msgspec.convert(row, Done | Failed)
        if isinstance(result, Failed):
            raise JobError(result.message) if result.is_permanent else Unavailable(result.message)
        advance(result.rows)
        yield result


def _embed_row(job: Job, endpoint: Endpoint, output: str, row: dict[str, Any]) -> dict[str, Any]:
    """`embed_shard` on rows of Ray Data. Returns errors as `Failed`, since Ray would wrap an exception."""
    result: Done | Failed
    try:
        result = embed_shard(job, endpoint, output, msgspec.convert(row, Shard))
    except (JobError, Unavailable) as exc:
        result = Failed(str(exc), is_permanent=isinstance(exc, JobError))
    converted: dict[str, Any] = msgspec.to_builtins(result)
    return converted
