"""Rows to outputs: a call is cut into requests that Triton can batch, and the answers are put in order."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.catalog import Tower
from gateway.errors import InferenceFailed
from gateway.service.ordered import gather
from gateway.triton import Triton

Tensors = Mapping[str, NDArray[np.generic]]
"""A request's inputs by name, rows first."""

IN_FLIGHT = 8
"""Requests that one call may have at Triton at a time: enough to keep it busy, few enough that a call of thousands of
rows does not fill the queue in front of everybody else's."""


async def run(
    triton: Triton,
    tower: Tower,
    parts: Sequence[Sequence[int]],
    tensors: Callable[[Sequence[int]], Awaitable[Tensors]],
) -> NDArray[np.float32]:
    """Compute every row: [n, tower.width], in the order of the rows.

    Args:
        triton: where the tower runs.
        tower: of any role.
        parts: the rows of each request, at most tower.max_batch_size; together 0..n-1.
        tensors: makes a part's inputs, when its turn has come.

    Raises:
        GatewayError: of the first part, in their order, that failed; those not begun by then are not.
    """
    results = np.empty((sum(map(len, parts)), tower.width), np.float32)
    slots = asyncio.Semaphore(IN_FLIGHT)
    failed = False

    async def run_part(part: Sequence[int]) -> None:
        nonlocal failed
        async with slots:
            if failed:
                return
            try:
                answer = await triton.infer(tower.triton_name, await tensors(part), tower.output)
                results[part] = _checked(answer, (len(part), tower.width))
            except BaseException:
                failed = True
                raise

    await gather(*map(run_part, parts))  # those in front of one that failed have begun, and are waited for
    return results


def _checked(results: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    if results.shape != shape:
        raise InferenceFailed(f"the model answered with shape {results.shape} where {shape} was due")
    if not np.isfinite(results).all():
        raise InferenceFailed("the model answered with numbers that are not finite")
    return results
