"""Runs image models on images."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.catalog import ImageModel
from gateway.contract import EMBEDDING, GRIDS, PATCHES, PIXELS
from gateway.images.preparation import Patches, Pixels
from gateway.images.processors import max_bytes
from gateway.service import batches
from gateway.service.batches import Batch
from gateway.service.caller import Caller
from gateway.service.gather import gather
from gateway.service.shared_calls import Tensors

BATCH_BYTES = 4 * 2**20
"""Pixels in one batch, in bytes, unless a single image has more. Images of any size count as the largest."""
MAX_PREPARED_IMAGES = 8
"""Images of one call that are fetched or decoded at a time, so that large calls leave room for others."""


async def infer_images(
    caller: Caller, model: ImageModel, count: int, read: Callable[[int], Awaitable[Pixels | Patches]]
) -> NDArray[np.float32]:
    """Compute all images: FP32 [count, model.width], in order.

    Args:
        caller: the request to work for.
        model: an image model.
        count: number of images.
        read: returns the pixels of one image, or its patches, as `model.preparation` tells; called just before they
            are needed, so that never all are in memory.

    Raises:
        GatewayError: the error of the first image that cannot be read, or what `batches.infer` raises.
    """
    slots = asyncio.Semaphore(MAX_PREPARED_IMAGES)

    async def read_one(index: int) -> Pixels | Patches:
        await slots.acquire()
        pixels = await read(index)
        slots.release()  # not after a failure: no further image may start
        return pixels

    async def tensors(rows: Sequence[int]) -> Tensors:
        with caller.timings.stage("decode", images=len(rows)):
            return _tensors(await gather(*map(read_one, rows)))

    size = min(model.max_batch_size, max(1, BATCH_BYTES // max_bytes(model.preparation)))
    parts = [range(start, min(start + size, count)) for start in range(0, count, size)]
    vectors = np.empty((count, model.width), np.float32)

    def store(rows: Sequence[int], outputs: Sequence[NDArray[np.generic]]) -> None:
        vectors[rows] = outputs[0]

    split = [Batch(rows, len(rows) * model.patches) for rows in parts]
    await batches.infer(caller, model, split, tensors, [model.outputs[EMBEDDING]], store)
    return vectors


def _tensors(images: Sequence[Pixels | Patches]) -> Tensors:
    patches = [[image] for image in images if isinstance(image, Patches)]
    if patches:
        return patch_tensors(patches, patches[0][0].pixels.shape[1])
    return {PIXELS: np.stack([image for image in images if not isinstance(image, Patches)])}


def patch_tensors(rows: Sequence[Sequence[Patches]], patch_bytes: int) -> Tensors:
    """The inputs PATCHES and GRIDS of rows with these images, padded to the most patches and grids of a row.

    Args:
        rows: the images of each row, which may have none.
        patch_bytes: B, the bytes of one patch.
    """
    counts = [sum(len(image.pixels) for image in row) for row in rows]
    grids = [[grid for image in row for grid in image.grids] for row in rows]
    patches = np.zeros((len(rows), max(1, *counts), patch_bytes), np.uint8)
    sizes = np.zeros((len(rows), max(1, *map(len, grids)), 2), np.int32)
    for index, row in enumerate(rows):
        if row:
            np.concatenate([image.pixels for image in row], out=patches[index, : counts[index]])
            sizes[index, : len(grids[index])] = grids[index]
    return {PATCHES: patches, GRIDS: sizes}
