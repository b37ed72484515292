"""Calls to Triton, which the batches of several requests share.

A call costs the gateway, Triton and the model about as much for one short text as for many. Requests often arrive
together, because the answers of one execution come back together. So batches that are granted in the same iteration of
the event loop leave in one call at its end. A request shares the call with others, but no failure: rows that fail are
computed again without the others.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gateway.catalog import TritonModel
from gateway.errors import GatewayError, InferenceFailed
from gateway.triton import Output, Triton

Tensors = Mapping[str, NDArray[np.generic]]
"""The inputs of rows by name, batch dimension first."""
Store = Callable[[Sequence[int], Sequence[NDArray[np.generic]]], None]
"""Takes the indices of rows and their outputs, batch dimension first."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one call may hold. A single row, or batch, may exceed them, and has a call of its own."""

    rows: int
    tokens: int
    padded: int
    """Tokens, including those by which rows are padded to the longest."""
    pads: bool = True
    """Whether batches of different width may share a call: not if the model computes their padding."""

    def hold(self, rows: int, tokens: int, width: int) -> bool:
        """Whether a call may hold rows with these tokens, padded to this width."""
        return rows <= self.rows and tokens <= self.tokens and rows * width <= self.padded


@dataclass(slots=True)
class Job:
    """A batch of one request that is computed."""

    rows: Sequence[int]
    """Their indices in the request."""
    tokens: int
    store: Store
    done: "asyncio.Future[None]"
    """Triton has nothing more to do for this batch. Must not be cancelled."""
    left: int = field(init=False)
    """The number of rows that are not stored."""

    def __post_init__(self) -> None:
        self.left = len(self.rows)

    def fail(self, error: Exception) -> None:
        """Give up all rows."""
        if not self.done.done():
            # The traceback of an expected error would keep all rows of the call until the next garbage collection.
            self.done.set_exception(error.with_traceback(None) if isinstance(error, GatewayError) else error)


@dataclass(slots=True)
class _Part:
    """Rows of a job."""

    job: Job
    rows: Sequence[int]
    tensors: Tensors

    def halves(self) -> Iterator["_Part"]:
        middle = len(self.rows) // 2
        for part in (slice(middle), slice(middle, None)):
            yield _Part(self.job, self.rows[part], {name: tensor[part] for name, tensor in self.tensors.items()})

    def store(self, outputs: Sequence[NDArray[np.generic]]) -> None:
        """Keep the outputs of these rows."""
        try:
            self.job.store(self.rows, outputs)
        except Exception as exc:  # noqa: BLE001 - of this request only
            self.job.fail(exc)
        self.job.left -= len(self.rows)
        if not self.job.left and not self.job.done.done():
            self.job.done.set_result(None)


@dataclass(slots=True)
class _Call:
    """A call that has not left yet."""

    parts: list[_Part]
    rows: int
    tokens: int
    widths: dict[str, int]
    """Of each input."""

    def join(self, part: _Part, limits: Limits) -> bool:
        """Add a part; returns whether there was room."""
        rows, tokens = self.rows + len(part.rows), self.tokens + part.job.tokens
        widths = {name: max(self.widths[name], tensor.shape[1]) for name, tensor in part.tensors.items()}
        if not limits.hold(rows, tokens, sum(widths.values())):
            return False
        self.parts.append(part)
        self.rows, self.tokens, self.widths = rows, tokens, widths
        return True


Key = tuple[object, ...]
"""What batches must have in common to share a call."""


class SharedCalls:
    """Sends batches to Triton. Use it in one event loop only."""

    def __init__(self, triton: Triton) -> None:
        """Send to these servers."""
        self._triton = triton
        self._open: dict[Key, _Call] = {}
        self._sent: set[asyncio.Task[None]] = set()

    def send(
        self, model: TritonModel, outputs: Sequence[Output], job: Job, tensors: Tensors, limits: Limits | None
    ) -> None:
        """Compute a batch: in a call of its own, or in one that leaves at the end of this iteration of the event loop.

        Args:
            model: a model of any role.
            outputs: what to compute.
            job: is done when all rows are stored, or one of them has failed.
            tensors: the inputs of its rows; matrices, if the call may be shared.
            limits: those of a shared call; None if this batch must not share one.
        """
        part = _Part(job, job.rows, tensors)
        widths = {name: tensor.shape[1] for name, tensor in tensors.items()}
        if limits is None or not limits.hold(len(job.rows), job.tokens, sum(widths.values())):
            self._leave(model, outputs, [part])
            return
        key = (model.triton_name, *(output.name for output in outputs), *(() if limits.pads else widths.values()))
        call = self._open.get(key)
        if call is not None and call.join(part, limits):
            return
        call = self._open[key] = _Call([part], len(job.rows), job.tokens, widths)
        # The context is that of the first request: the span of a shared call is in its trace.
        asyncio.get_running_loop().call_soon(self._close, key, call, model, outputs)

    def _close(self, key: Key, call: _Call, model: TritonModel, outputs: Sequence[Output]) -> None:
        if self._open.get(key) is call:  # otherwise it is full, and another one is open
            del self._open[key]
        servers = max(1, sum(self._triton.live().values()))
        for first in range(min(servers, len(call.parts))):  # each server gets its part of the work
            self._leave(model, outputs, call.parts[first::servers])

    def _leave(self, model: TritonModel, outputs: Sequence[Output], parts: list[_Part]) -> None:
        # Nobody cancels this task, whoever gives up: Triton 2.51 can crash (server issue 7368).
        task = asyncio.get_running_loop().create_task(self._run(model, outputs, parts))
        self._sent.add(task)
        task.add_done_callback(self._sent.discard)

    async def _run(self, model: TritonModel, outputs: Sequence[Output], parts: list[_Part]) -> None:
        try:
            await self._compute(model, outputs, parts)
        except Exception as exc:  # noqa: BLE001 - each request raises it
            for part in parts:
                part.job.fail(exc)

    async def _compute(self, model: TritonModel, outputs: Sequence[Output], parts: list[_Part]) -> None:
        """Compute rows: all at once or, if Triton fails, each half of them in the same way.

        Together, the rows may need more memory than there is. Halves cost no more than three times the work if one row
        fails, and twice if all do. Rows whose outputs are not finite are computed again without the others.
        """
        parts = [part for part in parts if not part.job.done.done()]  # another row of the batch may have failed
        if not parts:
            return
        failed, error = await self._attempt(model, outputs, parts)
        if not failed:
            return
        middle = len(failed) // 2
        if len(failed) < len(parts):
            again = [failed]
        elif middle:
            again = [failed[:middle], failed[middle:]]
        elif len(failed[0].rows) > 1:
            again = [[half] for half in failed[0].halves()]
        else:
            failed[0].job.fail(error)
            return
        for some in again:
            await self._compute(model, outputs, some)

    async def _attempt(
        self, model: TritonModel, outputs: Sequence[Output], parts: list[_Part]
    ) -> tuple[list[_Part], InferenceFailed]:
        """Compute rows in one call. Returns the parts that failed, and why."""
        name = model.triton_name
        try:
            computed = await self._triton.infer(name, _stacked(parts), outputs)
        except InferenceFailed as exc:
            return parts, exc
        failed, broken, start = [], "", 0
        for part in parts:
            rows = slice(start, start + len(part.rows))
            start = rows.stop
            own = [values[rows] for values in computed]
            bad = next((out.name for out, values in zip(outputs, own, strict=True) if not _is_finite(values)), None)
            if bad is None:
                self._triton.answered_at[name] = time.monotonic()
                part.store(own)
            else:
                failed.append(part)
                broken = bad
        return failed, InferenceFailed(f"model {name!r} returned values of {broken!r} that are not finite")


def _is_finite(values: NDArray[np.generic]) -> bool:
    return bool(np.isfinite(values).all())


def _stacked(parts: Sequence[_Part]) -> Tensors:
    """The inputs of all rows."""
    if len(parts) == 1:
        return parts[0].tensors
    return {name: _padded([part.tensors[name] for part in parts]) for name in parts[0].tensors}


def _padded(matrices: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
    """All rows, padded with zeros to the longest."""
    widths = {matrix.shape[1] for matrix in matrices}
    if len(widths) == 1:
        return np.concatenate(matrices)
    whole = np.zeros((sum(map(len, matrices)), max(widths)), matrices[0].dtype)
    start = 0
    for matrix in matrices:
        rows, width = matrix.shape
        whole[start : start + rows, :width] = matrix
        start += rows
    return whole
