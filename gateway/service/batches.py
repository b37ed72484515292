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
from gateway.triton import Output, Triton

Tensors = Mapping[str, NDArray[np.generic]]
"""The inputs of one Triton request by name, batch dimension first."""
Store = Callable[[Sequence[int], Sequence[NDArray[np.generic]]], None]
"""Takes the indices of rows and their outputs, batch dimension first."""

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
    caller: Caller,
    model: TritonModel,
    batches: Sequence[Batch],
    tensors: Callable[[Sequence[int]], Awaitable[Tensors]],
    outputs: Sequence[Output],
    store: Store,
) -> None:
    """Compute outputs of all rows.

    Args:
        caller: the request to work for.
        model: a model of any role.
        batches: rows 0 to n - 1, each in one batch.
        tensors: builds the inputs of the given rows; called when a batch is next.
        outputs: what to compute.
        store: keeps what is needed of a batch's outputs, so that the rest of them is not kept until the end.

    Raises:
        GatewayError: Overloaded before any batch is sent; otherwise the error of the first batch that failed. Batches
            after it that have not been sent are not sent. InferenceFailed: Triton fails on one of the rows alone.
    """
    slots = asyncio.Semaphore(MAX_PREPARED)

    async def infer_batch(admission: Admission, batch: Batch) -> None:
        await slots.acquire()
        await _send(caller, admission, model, batch, await tensors(batch.rows), outputs, store)
        slots.release()  # not after a failure: no further batch may start

    queue = caller.queues.get(model.triton_name)
    with queue.admit(caller.account.key, sum(batch.tokens for batch in batches)) as admission:
        await gather(*(infer_batch(admission, batch) for batch in batches))


async def _send(
    caller: Caller,
    admission: Admission,
    model: TritonModel,
    batch: Batch,
    tensors: Tensors,
    outputs: Sequence[Output],
    store: Store,
) -> None:
    timings, name, rows = caller.timings, model.triton_name, len(batch.rows)
    with timings.stage("queue"):
        await admission.acquire(batch.tokens)
    timings.calls.append(TritonCall(name, rows, batch.tokens))
    with timings.stage("inference", model=name, rows=rows, tokens=batch.tokens):
        call = asyncio.ensure_future(_infer(caller.triton, model, batch.rows, tensors, outputs, store))
        call.add_done_callback(partial(_release, admission.queue, batch.tokens))
        try:
            # Do not cancel the call when the client gives up: Triton 2.51 can crash (server issue 7368).
            await asyncio.shield(call)
        finally:
            del call  # or its error refers to itself, and the rows stay until the next garbage collection


async def _infer(
    triton: Triton,
    model: TritonModel,
    rows: Sequence[int],
    tensors: Tensors,
    outputs: Sequence[Output],
    store: Store,
) -> None:
    """Compute the rows of a batch: all at once or, if Triton fails, each half of them in the same way.

    Together, the rows may need more memory than there is. Halves cost no more than three times the work if one row
    fails, and twice if all do.
    """
    try:
        computed = await triton.infer(model.triton_name, tensors, outputs)
    except InferenceFailed:
        if len(rows) == 1:
            raise
    else:
        store(rows, computed)
        return
    middle = len(rows) // 2
    for part in (slice(middle), slice(middle, None)):
        half = {name: tensor[part] for name, tensor in tensors.items()}
        await _infer(triton, model, rows[part], half, outputs, store)


def _release(queue: Queue, tokens: int, call: "asyncio.Future[None]") -> None:
    """Free the capacity once Triton has finished. Reading the exception also keeps asyncio from logging it."""
    queue.release(tokens, done=not call.cancelled() and call.exception() is None)
