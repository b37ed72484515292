"""Work through shards: one after the other here, or many at a time on a Ray cluster."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec

from bulk.client import NO_TEXT, Endpoint, embed, unwatched
from bulk.job import Job, JobError, Refusal, Shard, Unavailable, read, write


class Done(msgspec.Struct, frozen=True, tag=True):
    """A shard whose results are written."""

    shard: int
    rows: int
    refused: int
    """Rows without a vector."""
    example: str | None
    """The reason for one of them; one other than a missing text, if there is any."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Why a shard has no results."""

    message: str
    for_good: bool
    """Whether trying again cannot help."""


def embed_shard(
    job: Job, endpoint: Endpoint, output: str, shard: Shard, advance: Callable[[int], object] = unwatched
) -> Done:
    """Read, embed and write a shard. May be done twice: the same file is written.

    Raises:
        JobError: the file has changed, or the server refuses the key or the model.
        Unavailable: the server did not answer for longer than is waited for, or the storage did not.
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


def here(
    job: Job, endpoint: Endpoint, output: str, shards: Sequence[Shard], advance: Callable[[int], object]
) -> Iterator[Done]:
    """One shard after the other, in this process; `advance` is told of so many more texts."""
    for shard in shards:
        yield embed_shard(job, endpoint, output, shard, advance)


def on_ray(
    job: Job,
    endpoint: Endpoint,
    output: str,
    shards: Sequence[Shard],
    advance: Callable[[int], object],
    at_once: int,
) -> Iterator[Done]:
    """So many shards at a time, by Ray Data, each a task on some machine of the cluster.

    Texts and results go from storage to storage and never through Ray, so both must be where every machine finds them.
    Shards on a machine that is lost are done again by Ray. An error in a shard ends the job, as it does here.
    """
    try:
        import ray  # noqa: PLC0415 - for those who have it
    except ModuleNotFoundError:
        raise JobError("Ray is not installed: pip install 'ray[data]'") from None
    ray.data.DataContext.get_current().enable_progress_bars = False
    data = ray.data.from_items([msgspec.to_builtins(shard) for shard in shards], override_num_blocks=len(shards))
    done = data.map(partial(_embed_row, job, endpoint, output), concurrency=at_once, num_cpus=1)
    for row in done.iter_rows():
        result = msgspec.convert(row, Done | Failed)
        if isinstance(result, Failed):
            raise JobError(result.message) if result.for_good else Unavailable(result.message)
        advance(result.rows)
        yield result


def _embed_row(job: Job, endpoint: Endpoint, output: str, row: dict[str, Any]) -> dict[str, Any]:
    """A shard's as rows of Ray Data, which an error would not pass whole."""
    result: Done | Failed
    try:
        result = embed_shard(job, endpoint, output, msgspec.convert(row, Shard))
    except (JobError, Unavailable) as exc:
        result = Failed(str(exc), for_good=isinstance(exc, JobError))
    found: dict[str, Any] = msgspec.to_builtins(result)
    return found
