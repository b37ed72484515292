"""Runs image models on images."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.catalog import ImageModel
from gateway.contract import EMBEDDING, PIXELS
from gateway.images.preparation import Pixels
from gateway.service import batches
from gateway.service.batches import Batch
from gateway.service.caller import Caller
from gateway.service.gather import gather

BATCH_BYTES = 4 * 2**20
"""Pixels in one batch, in bytes, unless a single image has more."""
MAX_PREPARED_IMAGES = 8
"""Images of one call that are fetched or decoded at a time, so that large calls leave room for others."""


async def infer_images(
    caller: Caller, model: ImageModel, count: int, read: Callable[[int], Awaitable[Pixels]]
) -> NDArray[np.float32]:
    """Compute all images: FP32 [count, model.width], in order.

    Args:
        caller: the request to work for.
        model: an image model.
        count: number of images.
        read: returns the pixels of one image, UINT8 [3, H, W]; called just before they are needed, so that never all
            are in memory.

    Raises:
        GatewayError: the error of the first image that cannot be read, or what `batches.infer` raises.
    """
    slots = asyncio.Semaphore(MAX_PREPARED_IMAGES)

    async def read_one(index: int) -> Pixels:
        await slots.acquire()
        pixels = await read(index)
        slots.release()  # not after a failure: no further image may start
        return pixels

    async def tensors(rows: Sequence[int]) -> batches.Tensors:
        with caller.timings.stage("decode", images=len(rows)):
            return {PIXELS: np.stack(await gather(*map(read_one, rows)))}

    image_bytes = 3 * model.preparation.height * model.preparation.width
    size = min(model.max_batch_size, max(1, BATCH_BYTES // image_bytes))
    parts = [range(start, min(start + size, count)) for start in range(0, count, size)]
    vectors = np.empty((count, model.width), np.float32)

    def store(rows: Sequence[int], outputs: Sequence[NDArray[np.generic]]) -> None:
        vectors[rows] = outputs[0]

    split = [Batch(rows, len(rows) * model.patches) for rows in parts]
    await batches.infer(caller, model, split, tensors, [model.outputs[EMBEDDING]], store)
    return vectors
