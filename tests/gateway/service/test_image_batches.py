import asyncio

import numpy as np
import pytest
from PIL.Image import Resampling

from gateway.catalog import ImageModel
from gateway.errors import InvalidRequest
from gateway.images.preparation import Pixels, Preparation
from gateway.service.image_batches import MAX_PREPARED_IMAGES, infer_images
from tests.gateway.service.recording import EMBEDDING, RecordingTriton, caller


def model(side: int = 8, max_batch_size: int = 64) -> ImageModel:
    preparation = Preparation(side, side, (side, side), Resampling.BILINEAR)
    return ImageModel("m", "m-image", "image-embedding", {"embedding": EMBEDDING}, max_batch_size, preparation, 4)


async def plain(index: int, side: int = 8) -> Pixels:
    return np.full((3, side, side), index, np.uint8)


def test_images_keep_their_order() -> None:
    triton = RecordingTriton()
    results = asyncio.run(infer_images(caller(triton), model(max_batch_size=4), 30, plain))
    assert results[:, 0].tolist() == list(range(30))
    assert [len(call["pixels"]) for call in triton.calls] == [4] * 7 + [2]
    assert triton.calls[0]["pixels"].dtype == np.uint8


def test_batches_of_large_images_are_smaller() -> None:
    side = 512  # 768 KiB
    triton = RecordingTriton()
    asyncio.run(infer_images(caller(triton), model(side), 12, lambda index: plain(index, side)))
    assert [len(call["pixels"]) for call in triton.calls] == [5, 5, 2]


def test_one_call_leaves_room_for_others() -> None:
    now = most = 0

    async def read(index: int) -> Pixels:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        return await plain(index)

    asyncio.run(infer_images(caller(RecordingTriton()), model(max_batch_size=4), 100, read))
    assert most == MAX_PREPARED_IMAGES


@pytest.mark.parametrize("bad", [{3, 7}, {7, 90}, {0, 1, 2, 3}])
def test_error_is_that_of_the_first_bad_image(bad: set[int]) -> None:
    begun = 0
    others, others_found = bad - {min(bad)}, asyncio.Event()

    async def read(index: int) -> Pixels:
        nonlocal begun
        begun += 1
        await asyncio.sleep(0)
        if index == min(bad):
            await others_found.wait()
        if index in bad:
            others.discard(index)
            if not others:
                others_found.set()
            raise InvalidRequest(f"image {index}")
        return await plain(index)

    with pytest.raises(InvalidRequest, match=f"^image {min(bad)}$"):
        asyncio.run(infer_images(caller(RecordingTriton()), model(max_batch_size=4), 1000, read))
    assert begun < 200
