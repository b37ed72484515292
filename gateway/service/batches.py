"""Rows to outputs: a call is cut into requests that Triton can batch, and the answers are put in order."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gateway.catalog import TritonModel
from gateway.errors import InferenceFailed
from gateway.scheduling.admission import Line, Ticket
from gateway.service.caller import Caller
from gateway.service.gather import gather
from gateway.telemetry.timings import TritonCall

Tensors = Mapping[str, NDArray[np.generic]]
"""A request's inputs by name, rows first."""

IN_FLIGHT = 8
"""Parts of one call that are made and wait for their turn at a time: a call of thousands of rows is never whole in
memory twice."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows that make one request to Triton."""

    rows: Sequence[int]
    """At most model.max_batch_size, by their places in the call."""
    tokens: int
    """What it counts for."""


async def run(
    caller: Caller, model: TritonModel, parts: Sequence[Part], tensors: Callable[[Sequence[int]], Awaitable[Tensors]]
) -> NDArray[np.float32]:
    """Compute every row: [n, model.width], in the order of the rows.

    Args:
        caller: on whose behalf.
        model: of any role.
        parts: together rows 0..n-1.
        tensors: makes a part's inputs, when its turn has come.

    Raises:
        GatewayError: of the first part, in their order, that failed; those not begun by then are not. Overloaded before
            any is.
    """
    results = np.empty((sum(len(part.rows) for part in parts), model.width), np.float32)
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def run_part(ticket: Ticket, part: Part) -> None:
        await slots.acquire()
        answer = await _infer(caller, ticket, model, part, await tensors(part.rows))
        results[part.rows] = _checked(answer, (len(part.rows), model.width))
        caller.triton.answered_at[model.triton_name] = time.monotonic()
        slots.release()  # not of a part that failed, or another would begin

    line = caller.lines.of(model.triton_name)
    with line.admit(caller.account.key, sum(part.tokens for part in parts)) as ticket:
        await gather(*(run_part(ticket, part) for part in parts))
    return results


async def _infer(
    caller: Caller, ticket: Ticket, model: TritonModel, part: Part, tensors: Tensors
) -> NDArray[np.float32]:
    timings = caller.timings
    with timings.stage("queue"):
        await ticket.turn(part.tokens)
    timings.calls.append(TritonCall(model.triton_name, len(part.rows), part.tokens))
    with timings.stage("inference", model=model.triton_name, rows=len(part.rows), tokens=part.tokens):
        call = asyncio.ensure_future(caller.triton.infer(model.triton_name, tensors, model.output))
        call.add_done_callback(partial(_leave, ticket.line, part.tokens))
        # Whoever gives up waiting does not cancel it: Triton 2.51 can crash when a call is (server issue 7368).
        return await asyncio.shield(call)


def _leave(line: Line, tokens: int, call: "asyncio.Future[NDArray[np.float32]]") -> None:
    """Make room in the line, when Triton is really done; asking for the error tells asyncio that somebody did."""
    line.leave(tokens, done=not call.cancelled() and call.exception() is None)


def _checked(results: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    if results.shape != shape:
        raise InferenceFailed(f"the model answered with shape {results.shape} where {shape} was due")
    if not np.isfinite(results).all():
        raise InferenceFailed("the model answered with numbers that are not finite")
    return results
