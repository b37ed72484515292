"""Patches against the image processors of transformers, on images of every kind and shape."""

import io
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from gateway.errors import InvalidRequest
from gateway.images.preparation import Patches
from gateway.images.preprocess import BYTES_PER_PIXEL, read_patches
from gateway.images.processors import AnyProcessor, Budget, Fixed, NaFlex, Smart, Tiles
from loadtest.tools.hostile import png
from loadtest.tools.pictures import VARIED, file, scene, seen

MOST = 40_000_000 * BYTES_PER_PIXEL
RAW: Any = {"do_rescale": False, "do_normalize": False, "return_tensors": "np"}
SHAPES = ((3, 3), (3, 300), (1300, 7), (33, 31), (1000, 750), (900, 1700), (480, 480), (16, 16))
"""In addition to those of VARIED: width and height."""
FILES = dict(VARIED) | {f"png, {w} x {h}": file(scene(w, h, 99), "PNG") for w, h in SHAPES}

Expected = tuple[list[NDArray[np.generic]], tuple[int, int]]
"""The pixels [3, H, W] of each grid, and the rows and columns of tiles."""


def whole(patches: NDArray[np.generic], rows: int, columns: int, merge: int = 1) -> NDArray[np.generic]:
    """The image [3, H, W] of patches [P, 3, size, size] in blocks of merge x merge."""
    size = patches.shape[-1]
    blocks = patches.reshape(rows // merge, columns // merge, merge, merge, 3, size, size)
    return blocks.transpose(4, 0, 2, 5, 1, 3, 6).reshape(3, rows * size, columns * size)


def of_qwen(image: Image.Image) -> Expected:
    done = Qwen2VLImageProcessorPil(patch_size=16, merge_size=2, size={"shortest_edge": 4096, "longest_edge": 163_840})(
        image, **RAW
    )
    frames = done["pixel_values"].reshape(-1, 3, 2, 16, 16)
    assert np.array_equal(frames[:, :, 0], frames[:, :, 1])
    ((_, rows, columns),) = done["image_grid_thw"].tolist()
    return [whole(frames[:, :, 0], rows, columns, 2)], (0, 0)


def of_paligemma(image: Image.Image) -> Expected:
    return list(SiglipImageProcessorPil(size={"height": 224, "width": 448})(image, **RAW)["pixel_values"]), (0, 0)


def of_gemma(image: Image.Image) -> Expected:
    done = Gemma4ImageProcessorPil(max_soft_tokens=70)(image, **RAW)
    columns, rows = (done["image_position_ids"][0].max(0) + 1).tolist()
    patches = done["pixel_values"][0, : rows * columns].reshape(-1, 16, 16, 3).transpose(0, 3, 1, 2)
    return [whole(patches, rows, columns)], (0, 0)


def of_siglip(image: Image.Image) -> Expected:
    done = Siglip2ImageProcessorPil(max_num_patches=256)(image, **RAW)
    rows, columns = done["spatial_shapes"][0].tolist()
    patches = done["pixel_values"][0, : rows * columns].reshape(-1, 16, 16, 3).transpose(0, 3, 1, 2)
    return [whole(patches, rows, columns)], (0, 0)


def of_idefics(image: Image.Image) -> Expected:
    done = Idefics3ImageProcessorPil(
        size={"longest_edge": 512}, max_image_size={"longest_edge": 128}, return_row_col_info=True
    )(image, **RAW)
    return list(done["pixel_values"][0]), (done["rows"][0][0], done["cols"][0][0])


TEXTS: Any = dict.fromkeys(("tile_text", "row_end", "whole_text", "single_text"), "")
PROCESSORS: dict[str, tuple[AnyProcessor, Callable[[Image.Image], Expected]]] = {
    "smart": (Smart(patch=16, merge=2, min_pixels=4096, max_pixels=163_840), of_qwen),
    "fixed": (Fixed(patch=14, height=224, width=448), of_paligemma),
    "budget": (Budget(patch=16, merge=3, max_patches=630), of_gemma),
    "naflex": (NaFlex(patch=16, max_patches=256, resample="bilinear"), of_siglip),
    "tiles": (Tiles(patch=16, merge=4, resample="lanczos", tile=128, longest_edge=512, **TEXTS), of_idefics),
}


def read(content: bytes, processor: AnyProcessor, most: int = MOST) -> Patches:
    reserved: list[int] = []
    patches = read_patches(content, processor, "image", most, reserved.append)
    assert len(reserved) == 1
    return patches


@pytest.mark.parametrize("kind", PROCESSORS)
def test_pixels_and_grids_are_those_of_the_image_processor(kind: str) -> None:
    processor, expected = PROCESSORS[kind]
    compared = 0
    for name, content in FILES.items():
        image = seen(content)
        if kind == "smart" and max(image.size) > 180 * min(image.size):
            continue
        patches, (pixels, tiles) = read(content, processor), expected(image)
        compared += 1
        assert patches.tiles == tiles, name
        start = 0
        for (rows, columns), of_grid in zip(patches.grids, pixels, strict=True):
            part = patches.pixels[start : start + rows * columns]
            start += rows * columns
            ours = whole(part.reshape(-1, 3, processor.patch, processor.patch), rows, columns, processor.merge)
            assert np.array_equal(ours, of_grid), name
        assert start == len(patches.pixels) == processor.layout(image.height, image.width).patches
    assert compared >= 50


def refusal(content: bytes, processor: AnyProcessor, most: int = MOST) -> str:
    def reserve(_: int) -> None:
        raise AssertionError("nothing may be decoded")

    with pytest.raises(InvalidRequest) as caught:
        read_patches(content, processor, "input[3].image", most, reserve)
    assert caught.value.param == "input[3].image"
    return caught.value.message


@pytest.mark.parametrize(("width", "height"), [(40_000_001, 2), (100_000, 100_000), (6400, 6251)])
@pytest.mark.parametrize("kind", PROCESSORS)
def test_huge_image_is_refused_before_anything_is_decoded(kind: str, width: int, height: int) -> None:
    assert refusal(png(width, height), PROCESSORS[kind][0]) == (
        f"input[3].image has {width} x {height} pixels; the limit for this type of image is 40000000 pixels"
    )


@pytest.mark.parametrize(("width", "height"), [(20_000_000, 2), (2, 20_000_000)])
@pytest.mark.parametrize("kind", PROCESSORS)
def test_thin_image_is_refused_before_anything_is_decoded(kind: str, width: int, height: int) -> None:
    message = refusal(png(width, height), PROCESSORS[kind][0])
    assert message.startswith(f"input[3].image has {width} x {height} pixels")
    assert ("the longer side may be at most 200 times the shorter" if kind == "smart" else "to resize") in message


def test_limit_of_memory_holds_for_resizing() -> None:
    large = Smart(patch=16, merge=2, min_pixels=12_000_000, max_pixels=2**24)
    assert "bytes to resize; the limit is 60000000" in refusal(file(scene(100, 100, 0), "PNG"), large, 60_000_000)


MEASURE = """
import resource, sys, msgspec
from gateway.images import preprocess, processors
small, content = (bytes.fromhex(line) for line in sys.stdin)
processor = processors.read(sys.argv[1])
reserved = []
preprocess.read_patches(small, processor, "image", 10**9, reserved.append)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
preprocess.read_patches(content, processor, "image", 10**9, reserved.append)
print(reserved[-1] / 2**20, (peak() - before) / 1024)
"""
LARGE: dict[str, AnyProcessor] = {
    "smart": Smart(patch=16, merge=2, min_pixels=2**22, max_pixels=2**24),
    "fixed": Fixed(patch=16, height=4096, width=4096),
    "budget": Budget(patch=16, merge=3, max_patches=2**16),
    "naflex": NaFlex(patch=16, max_patches=2**16),
    "tiles": Tiles(patch=16, merge=4, resample="lanczos", tile=512, longest_edge=4096, **TEXTS),
}


@pytest.mark.parametrize("kind", LARGE)
@pytest.mark.parametrize("size", [(4000, 2500), (2500, 4000), (600, 500), (9000, 60)])
def test_memory_is_reserved_for_the_largest_results(kind: str, size: tuple[int, int]) -> None:
    """More than the limits of any known model: 50 MiB of patches."""
    contents = (file(scene(60, 40, 0), "JPEG"), file(Image.new("RGB", size, "teal"), "JPEG"))
    command = [sys.executable, "-c", MEASURE, msgspec.json.encode(LARGE[kind]).decode()]
    given = "\n".join(content.hex() for content in contents)
    done = subprocess.run(command, input=given, capture_output=True, check=True, text=True)
    reserved, used = map(float, done.stdout.split())
    assert used < reserved + 10


def test_smallest_image_fills_the_least_budget() -> None:
    content = file(Image.new("RGB", (2, 2), "red"), "PNG")
    for kind, (processor, _) in PROCESSORS.items():
        patches = read(content, processor)
        assert (patches.pixels.reshape(-1, 3, processor.patch**2)[:, 0] == 255).all(), kind
        assert patches.pixels.nbytes <= 10**6


def test_corrupt_image_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"^image is a corrupt PNG image$"):
        read(file(scene(60, 40, 0), "PNG")[:-400], PROCESSORS["smart"][0])


def test_image_on_its_side_is_cut_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    written = io.BytesIO()
    scene(640, 64, 0).save(written, "PNG", exif=exif)
    (grid,) = read(written.getvalue(), PROCESSORS["smart"][0]).grids
    assert grid == (40, 4)


def test_every_patch_is_in_its_block() -> None:
    """Patches of 1 x 1 pixels of an image whose red is the row and whose green is the column."""
    rows, columns = np.mgrid[:4, :6].astype(np.uint8)
    image = Image.fromarray(np.stack([rows, columns, rows * 0], 2))
    patches = read(file(image, "PNG"), Fixed(patch=1, merge=2, height=4, width=6, resample="nearest"))
    assert patches.pixels[:8, :2].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3], [1, 2], [1, 3]]
    assert patches.pixels[-1].tolist() == [3, 5, 0]
