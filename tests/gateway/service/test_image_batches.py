import asyncio

import numpy as np
import pytest
from PIL.Image import Resampling

from gateway.catalog import ImageModel
from gateway.errors import InvalidRequest
from gateway.images.preparation import Patches, Pixels, Preparation
from gateway.images.processors import NaFlex
from gateway.service.image_batches import MAX_PREPARED_IMAGES, infer_images, patch_tensors
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


NAFLEX = NaFlex(patch=16, max_patches=256, resample="bilinear")


def of_any_size(max_batch_size: int = 64) -> ImageModel:
    outputs = {"embedding": EMBEDDING}
    return ImageModel("m", "m-image", "image-embedding", outputs, max_batch_size, NAFLEX, NAFLEX.max_patches)


def patches(index: int) -> Patches:
    return Patches(np.full((2 * (index + 1), 768), index, np.uint8), ((2, index + 1),))


async def patched(index: int) -> Patches:
    return patches(index)


def test_images_of_any_size_keep_their_order() -> None:
    triton = RecordingTriton()
    results = asyncio.run(infer_images(caller(triton), of_any_size(4), 10, patched))
    assert results[:, 0].tolist() == list(range(10))
    assert [call["patches"].shape for call in triton.calls] == [(4, 8, 768), (4, 16, 768), (2, 20, 768)]
    assert triton.calls[1]["grids"].tolist() == [[[2, 5]], [[2, 6]], [[2, 7]], [[2, 8]]]
    assert triton.calls[1]["patches"][:, :, 0].max(1).tolist() == [4, 5, 6, 7]
    assert [str(tensor.dtype) for tensor in triton.calls[0].values()] == ["uint8", "int32"]


def test_images_of_any_size_count_as_the_largest() -> None:
    triton = RecordingTriton()
    asyncio.run(infer_images(caller(triton), of_any_size(), 50, patched))
    assert [len(call["grids"]) for call in triton.calls] == [21, 21, 8]  # 192 KiB each


def test_rows_have_any_number_of_images() -> None:
    rows = [[], [patches(1), patches(0)], [Patches(np.ones((8, 768), np.uint8), ((2, 2), (2, 2)))]]
    tensors = patch_tensors(rows, 768)
    assert tensors["grids"].tolist() == [[[0, 0], [0, 0]], [[2, 2], [2, 1]], [[2, 2], [2, 2]]]
    assert tensors["patches"][:, :, 5].tolist() == [[0] * 8, [1, 1, 1, 1, 0, 0, 0, 0], [1] * 8]
    nothing = patch_tensors([[], []], 768)
    assert (nothing["patches"].shape, nothing["grids"].shape) == ((2, 1, 768), (2, 1, 2))
