"""Sends the rows of a request to Triton in batches and puts the outputs back in order."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from msgspec import Struct

from gateway.catalog import TritonModel
from gateway.scheduling.admission import Admission
from gateway.service.caller import Caller
from gateway.service.gather import gather
from gateway.service.shared_calls import Job, Limits, Store, Tensors
from gateway.telemetry.timings import TritonCall
from gateway.triton import Output

MAX_PREPARED = 8
"""Batches of one call that are built or queued at a time, so that the tensors of a call of thousands of rows are never
all in memory."""


class Batch(Struct, frozen=True):
    """The rows of one Triton request."""

    rows: Sequence[int]
    """Indices of rows in the call, at most model.max_batch_size."""
    tokens: int
    """Its size for admission: the tokens of its texts or the patches of its images."""


async def infer(
    caller: Caller,
    model: TritonModel,
    batches: Sequence[Batch],
    tensors: Callable[[Sequence[int]], Awaitable[Tensors]],
    outputs: Sequence[Output],
    store: Store,
    shared: Limits | None = None,
) -> None:
    """Compute outputs of all rows.

    Args:
        caller: the request to work for.
        model: a model of any role.
        batches: rows 0 to n - 1, each in one batch.
        tensors: builds the inputs of the given rows; called when a batch is next.
        outputs: what to compute.
        store: keeps what is needed of a batch's outputs, so that the rest of them is not kept until the end.
        shared: the most that a call to Triton may hold of this and other requests; None to share no call.

    Raises:
        GatewayError: Overloaded before any batch is sent; otherwise the error of the first batch that failed. Batches
            after it that have not been sent are not sent. InferenceFailed: Triton fails on one of the rows alone.
    """
    queue, account = caller.queues.get(model.triton_name), caller.account
    if len(batches) == 1:
        (batch,) = batches
        with queue.admit(account.key, batch.tokens, background=account.is_background) as admission:
            await _send(caller, admission, model, batch, await tensors(batch.rows), outputs, store, shared)
        return
    slots = asyncio.Semaphore(MAX_PREPARED)

    async def infer_batch(admission: Admission, batch: Batch) -> None:
        await slots.acquire()
        await _send(caller, admission, model, batch, await tensors(batch.rows), outputs, store, shared)
        slots.release()  # not after a failure: no further batch may start

    total = sum(batch.tokens for batch in batches)
    with queue.admit(account.key, total, background=account.is_background) as admission:
        await gather(*(infer_batch(admission, batch) for batch in batches))


async def _send(
    caller: Caller,
    admission: Admission,
    model: TritonModel,
    batch: Batch,
    tensors: Tensors,
    outputs: Sequence[Output],
    store: Store,
    shared: Limits | None,
) -> None:
    timings, name, rows = caller.timings, model.triton_name, len(batch.rows)
    with timings.stage("queue"):
        await admission.acquire(batch.tokens)
    timings.calls.append(TritonCall(name, rows, batch.tokens))
    with timings.stage("inference", model=name, rows=rows, tokens=batch.tokens):
        job = Job(batch.rows, batch.tokens, store, asyncio.get_running_loop().create_future())
        job.done.add_done_callback(partial(_release, admission, batch.tokens))
        caller.calls.send(model, outputs, job, tensors, shared)
        try:
            await asyncio.shield(job.done)  # the call goes on for the others, or until Triton has done the work
        finally:
            del job  # or its error refers to itself, and the rows stay until the next garbage collection


def _release(admission: Admission, tokens: int, done: "asyncio.Future[None]") -> None:
    """Free the capacity once Triton has finished. Reading the exception also keeps asyncio from logging it."""
    is_done = not done.cancelled() and done.exception() is None
    admission.queue.release(tokens, done=is_done, background=admission.flow.is_background)
