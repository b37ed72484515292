"""Sends the rows of a call to Triton in batches and puts the outputs back in order."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gateway.catalog import TritonModel
from gateway.errors import InferenceFailed
from gateway.scheduling.admission import Admission, Queue
from gateway.service.caller import Caller
from gateway.service.gather import gather
from gateway.telemetry.timings import TritonCall
from gateway.triton import Triton

Tensors = Mapping[str, NDArray[np.generic]]
"""The inputs of one Triton request by name, batch dimension first."""

MAX_PREPARED = 8
"""Batches of one call that are built or queued at a time, so that the tensors of a call of thousands of rows are never
all in memory."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one Triton request."""

    rows: Sequence[int]
    """Indices of rows in the call, at most model.max_batch_size."""
    tokens: int
    """Its size for admission: the tokens of its texts or the patches of its images."""


async def infer(
    caller: Caller, model: TritonModel, batches: Sequence[Batch], tensors: Callable[[Sequence[int]], Awaitable[Tensors]]
) -> NDArray[np.float32]:
    """Compute all rows: FP32 [n, model.width], in the order of the rows.

    Args:
        caller: the request to work for.
        model: a model of any role.
        batches: rows 0 to n - 1, each in one batch.
        tensors: builds the inputs of the given rows; called when a batch is next.

    Raises:
        GatewayError: Overloaded before any batch is sent; otherwise the error of the first batch that failed. Batches
            after it that have not been sent are not sent. InferenceFailed: Triton fails on one of the rows alone.
    """
    results = np.empty((sum(len(batch.rows) for batch in batches), model.width), np.float32)
    slots = asyncio.Semaphore(MAX_PREPARED)

    async def infer_batch(admission: Admission, batch: Batch) -> None:
        await slots.acquire()
        results[batch.rows] = await _send(caller, admission, model, batch, await tensors(batch.rows))
        slots.release()  # not after a failure: no further batch may start

    queue = caller.queues.get(model.triton_name)
    with queue.admit(caller.account.key, sum(batch.tokens for batch in batches)) as admission:
        await gather(*(infer_batch(admission, batch) for batch in batches))
    return results


async def _send(
    caller: Caller, admission: Admission, model: TritonModel, batch: Batch, tensors: Tensors
) -> NDArray[np.float32]:
    timings, name, rows = caller.timings, model.triton_name, len(batch.rows)
    with timings.stage("queue"):
        await admission.acquire(batch.tokens)
    timings.calls.append(TritonCall(name, rows, batch.tokens))
    with timings.stage("inference", model=name, rows=rows, tokens=batch.tokens):
        call = asyncio.ensure_future(_infer(caller.triton, model, tensors, rows))
        call.add_done_callback(partial(_release, admission.queue, batch.tokens))
        # Do not cancel the call when the client gives up: Triton 2.51 can crash (server issue 7368).
        return await asyncio.shield(call)


async def _infer(triton: Triton, model: TritonModel, tensors: Tensors, rows: int) -> NDArray[np.float32]:
    """Compute the rows of a batch: all at once or, if Triton fails, each half of them in the same way.

    Together, the rows may need more memory than there is. Halves cost no more than three times the work if one row
    fails, and twice if all do.
    """
    try:
        return await triton.infer(model.triton_name, tensors, model.output, (rows, model.width))
    except InferenceFailed:
        if rows == 1:
            raise
    middle = rows // 2
    halves = ((slice(middle), middle), (slice(middle, None), rows - middle))
    outputs = [
        await _infer(triton, model, {name: tensor[part] for name, tensor in tensors.items()}, count)
        for part, count in halves
    ]
    return np.concatenate(outputs)


def _release(queue: Queue, tokens: int, call: "asyncio.Future[NDArray[np.float32]]") -> None:
    """Free the capacity once Triton has finished. Reading the exception also keeps asyncio from logging it."""
    queue.release(tokens, done=not call.cancelled() and call.exception() is None)
