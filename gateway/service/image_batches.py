"""Images to outputs."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.catalog import ImageModel
from gateway.contract import PIXELS
from gateway.images.pool import Pixels
from gateway.service import batches
from gateway.service.caller import Caller
from gateway.service.gather import gather

PART_BYTES = 4 * 2**20
"""Of pixels in one request, unless one image alone has more."""
IN_PREPARATION = 8
"""Images of one call that may be fetched and decoded at a time, so that a call of thousands leaves room for others."""


async def run(
    caller: Caller, model: ImageModel, count: int, read: Callable[[int], Awaitable[Pixels]]
) -> NDArray[np.float32]:
    """Compute every image: [count, model.width], in their order.

    Args:
        caller: on whose behalf.
        model: which.
        count: how many there are.
        read: gives the pixels of one of them, UINT8 [3, H, W], when its turn has come: never are all in memory.

    Raises:
        GatewayError: what `read` does, of the first image in their order that fails, and what `batches.run` does.
    """
    slots = asyncio.Semaphore(IN_PREPARATION)

    async def read_one(index: int) -> Pixels:
        await slots.acquire()
        pixels = await read(index)
        slots.release()  # not of an image that failed, or another would begin
        return pixels

    async def tensors(part: Sequence[int]) -> batches.Tensors:
        with caller.timings.stage("decode", images=len(part)):
            return {PIXELS: np.stack(await gather(*map(read_one, part)))}

    bytes_each = 3 * model.preparation.height * model.preparation.width
    size = min(model.max_batch_size, max(1, PART_BYTES // bytes_each))
    cut = [range(start, min(start + size, count)) for start in range(0, count, size)]
    return await batches.run(caller, model, [batches.Part(rows, len(rows) * model.patches) for rows in cut], tensors)
