"""/v1/batches: OpenAI's API of batches, whose requests are computed in the background."""

import asyncio
import re
import time
from typing import Annotated, Literal

from msgspec import Meta, Struct
from starlette.responses import Response

from gateway.errors import InvalidRequest, NoSuchObject, quoted
from gateway.jobs.store import FINISHED, Batch, Owner, Progress, Status, new_id
from gateway.routes.body import read
from gateway.routes.files import PURPOSE, check_lasting, owner, page, query, store
from gateway.routes.http import Request, json_response
from gateway.routes.operation import Operation

WINDOW = re.compile(r"([1-9]\d{0,5})([mhd])")
WINDOW_UNITS_S = {"m": 60, "h": 3600, "d": 24 * 3600}
MAX_WINDOW_S = 30 * 24 * 3600


class ExpiresAfter(Struct, forbid_unknown_fields=True):
    """When files are deleted."""

    seconds: int
    """After their creation: 3600 to 2592000."""
    anchor: Literal["created_at"] = "created_at"


class BatchRequest(Struct, forbid_unknown_fields=True):
    """A file of requests to compute in the background."""

    input_file_id: str
    """Of a file uploaded to /v1/files."""
    endpoint: str
    """The path that each line names as its `url`, such as /v1/embeddings."""
    completion_window: str = "24h"
    """How long the batch may take: minutes, hours or days, such as 30m, 24h or 7d; at most 30 days. Requests that are
    not computed by then get the error batch_expired."""
    metadata: (
        Annotated[dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)]
        | None
    ) = None
    """Repeated in answers."""
    output_expires_after: ExpiresAfter | None = None
    """When the files of results are deleted. Default: after 30 days."""


class RequestCounts(Struct):
    """The requests of a batch."""

    total: int
    completed: int
    """That have an answer with status 200, in the output file."""
    failed: int
    """That have another one, in the error file."""


class BatchProblem(Struct):
    """Why a batch failed, or waits."""

    code: str
    message: str
    line: int | None
    """Of the input file, from 1."""
    param: str | None


class BatchProblems(Struct):
    """All of them, up to 20."""

    data: list[BatchProblem]
    object: Literal["list"] = "list"


class BatchObject(Struct):
    """A batch. Times are Unix times in seconds."""

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    status: Status
    created_at: int
    expires_at: int
    request_counts: RequestCounts
    errors: BatchProblems | None
    """Why the batch failed, or, while it is in progress, why it waits."""
    output_file_id: str | None
    """The file of successful answers, once the batch is finished and there are some."""
    error_file_id: str | None
    """The same for failed ones."""
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    metadata: dict[str, str] | None
    object: Literal["batch"] = "batch"


class BatchList(Struct):
    """A page of batches, the newest first."""

    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


class BatchQuery(Struct):
    """Which batches to list."""

    after: str | None = None
    """Only those older than the batch with this id."""
    limit: Annotated[int, Meta(ge=1, le=100)] = 20


async def create(request: Request) -> Response:
    """Answer POST /v1/batches."""
    of_key, endpoints = owner(request), store(request).endpoints
    body = await read(request, BatchRequest)
    if body.endpoint not in endpoints:
        raise InvalidRequest(
            f"endpoint: {quoted(body.endpoint)} is no path for batches; they take those of POST requests with JSON,"
            " such as /v1/embeddings (see /openapi.json)",
            param="endpoint",
        )
    window_s = _window_s(body.completion_window)
    lasts_s = check_lasting(
        body.output_expires_after.seconds if body.output_expires_after else None, "output_expires_after.seconds"
    )
    now = int(time.time())
    batch = Batch(
        id=new_id("batch_"),
        endpoint=body.endpoint,
        input_file_id=body.input_file_id,
        completion_window=body.completion_window,
        created_at=now,
        expires_at=now + window_s,
        output_file_id=new_id("file-"),
        error_file_id=new_id("file-"),
        output_lasts_s=lasts_s,
        metadata=body.metadata,
    )
    await asyncio.to_thread(_add, of_key, batch)
    return json_response(_describe(batch, Progress(), None))


def _add(of_key: Owner, batch: Batch) -> None:
    try:
        file = of_key.file(batch.input_file_id)
    except NoSuchObject as exc:
        raise NoSuchObject(f"input_file_id: {exc.message}", param="input_file_id") from exc
    if file.purpose != PURPOSE:
        raise InvalidRequest(f"file {file.id} must have the purpose {PURPOSE}", param="input_file_id")
    of_key.add_batch(batch)


def _window_s(window: str) -> int:
    found = WINDOW.fullmatch(window)
    seconds = int(found[1]) * WINDOW_UNITS_S[found[2]] if found else 0
    if not 0 < seconds <= MAX_WINDOW_S:
        raise InvalidRequest(
            f"completion_window: {quoted(window)} must be minutes, hours or days such as 30m, 24h or 7d, at most 30d",
            param="completion_window",
        )
    return seconds


async def list_batches(request: Request) -> Response:
    """Answer GET /v1/batches."""
    of_key, wanted = owner(request), query(request, BatchQuery)

    def find() -> BatchList:
        found, has_more = page(of_key.batches(), lambda batch: batch.id, wanted.after, wanted.limit, "desc")
        data = [_look_up(of_key, batch) for batch in found]
        return BatchList(data, data[0].id if data else None, data[-1].id if data else None, has_more)

    return json_response(await asyncio.to_thread(find))


async def retrieve(request: Request) -> Response:
    """Answer GET /v1/batches/{batch_id}."""
    of_key, batch_id = owner(request), request.path_params["batch_id"]
    return json_response(await asyncio.to_thread(lambda: _look_up(of_key, of_key.batch(batch_id))))


async def cancel(request: Request) -> Response:
    """Answer POST /v1/batches/{batch_id}/cancel."""
    of_key, batch_id = owner(request), request.path_params["batch_id"]

    def do() -> BatchObject:
        batch = of_key.batch(batch_id)
        status = of_key.progress(batch_id).status
        if status in FINISHED and status != "cancelled":
            raise InvalidRequest(f"batch {batch_id} is {status} already")
        of_key.cancel(batch_id)
        return _look_up(of_key, batch)

    return json_response(await asyncio.to_thread(do))


def _look_up(of_key: Owner, batch: Batch) -> BatchObject:
    return _describe(batch, of_key.progress(batch.id), of_key.cancelled_at(batch.id))


def _describe(batch: Batch, progress: Progress, cancelled_at: int | None) -> BatchObject:
    is_finished = progress.status in FINISHED
    ended = {progress.status: progress.finished_at} if is_finished else {}
    problems = [BatchProblem(one.code, one.message, one.line, one.param) for one in progress.problems]
    return BatchObject(
        id=batch.id,
        endpoint=batch.endpoint,
        input_file_id=batch.input_file_id,
        completion_window=batch.completion_window,
        status="cancelling" if cancelled_at is not None and not is_finished else progress.status,
        created_at=batch.created_at,
        expires_at=batch.expires_at,
        request_counts=RequestCounts(progress.total, progress.completed, progress.failed),
        errors=BatchProblems(problems) if problems else None,
        output_file_id=batch.output_file_id if progress.has_output else None,
        error_file_id=batch.error_file_id if progress.has_errors else None,
        in_progress_at=progress.in_progress_at,
        finalizing_at=progress.finalizing_at,
        completed_at=ended.get("completed"),
        failed_at=ended.get("failed"),
        expired_at=ended.get("expired"),
        cancelling_at=cancelled_at,
        cancelled_at=ended.get("cancelled"),
        metadata=batch.metadata,
    )


OPERATIONS = (
    Operation(
        "post",
        "/v1/batches",
        "createBatch",
        "Compute requests in the background",
        create,
        BatchObject,
        BatchRequest,
        {"input_file_id": "file-0123", "endpoint": "/v1/embeddings", "completion_window": "24h"},
    ),
    Operation("get", "/v1/batches", "listBatches", "List the batches", list_batches, BatchList, query=BatchQuery),
    Operation("post", "/v1/batches/{batch_id}/cancel", "cancelBatch", "Cancel a batch", cancel, BatchObject),
    Operation("get", "/v1/batches/{batch_id}", "retrieveBatch", "Describe a batch", retrieve, BatchObject),
)
