"""Turns an image file into a model's input, with Pillow, as the model's own image processor would.

Runs in the processes of `gateway.images.worker`.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import TypeVar

import numpy as np
from PIL import Image
from PIL.Image import Resampling, Transpose
from PIL.ImageFile import ImageFile

from gateway.errors import InvalidRequest
from gateway.images import background, formats
from gateway.images.preparation import Patches, Preparation
from gateway.images.processors import AnyProcessor, Layout

MIN_SIDE = 2
"""The smallest width and height, in pixels. Image processors mistake an image of one row or column for another
layout."""
BYTES_PER_PIXEL = 6
"""Memory per pixel to decode and prepare most images: four bytes for the image, and two for copies of one channel."""
WEBP_BYTES_PER_PIXEL = 20
"""Memory per pixel to decode a WebP: the decoder's two canvases and its copy, Pillow's copy, and the image, of four
bytes each."""
FACTOR_BYTES = 64
"""Memory for the factors by which Pillow resizes, per pixel of a side: up to seven double floats (Lanczos)."""
ORIENTATION = 0x0112
UPRIGHT: Mapping[int, Transpose] = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""The transposition that makes an image upright, by the EXIF tag Orientation (CIPA DC-008, section 4.6.4 A)."""

Prepared = TypeVar("Prepared")


def read(file: bytes, preparation: Preparation, place: str, max_bytes: int, reserve: Callable[[int], None]) -> bytes:
    """Decode the first frame of an image, rotate it upright, composite it on white, resize and crop it.

    Args:
        file: PNG, JPEG, WebP, GIF or BMP.
        preparation: how the model's image processor resizes and crops.
        place: the field for error messages.
        max_bytes: the most memory that decoding may take.
        reserve: called with the memory that decoding takes, in bytes, before it is allocated.

    Returns:
        UINT8 [3, H, W].

    Raises:
        InvalidRequest: the file has another format, is corrupt, is also another file type, is too small or too large,
            or would take long to decode.
        MemoryError: decoding takes more memory than estimated.
    """
    return _read(file, place, max_bytes, reserve, lambda *_: 0, partial(_crop, preparation=preparation))


def read_patches(
    file: bytes, processor: AnyProcessor, place: str, max_bytes: int, reserve: Callable[[int], None]
) -> Patches:
    """Decode the first frame of an image, rotate it upright, composite it on white, resize it and cut it into patches.

    Args:
        file, place, reserve: see `read`.
        processor: the model's image processor.
        max_bytes: the most memory that decoding may take, and the most that resizing may take in addition.

    Raises:
        InvalidRequest, MemoryError: see `read`; also if the processor refuses the image's shape.
    """

    def resizing(width: int, height: int) -> int:
        """The memory that resizing takes, in bytes, whether or not the image lies on its side."""
        try:
            needed = max(_resizing(processor, *size) for size in ((height, width), (width, height)))
        except ValueError as exc:
            raise InvalidRequest(f"{place} {exc}", param=place) from exc
        if needed > max_bytes:
            raise InvalidRequest(
                f"{place} has {width} x {height} pixels, which take {needed} bytes to resize; the limit is {max_bytes}",
                param=place,
            )
        return needed

    return _read(file, place, max_bytes, reserve, resizing, partial(_cut, processor=processor))


def _read(
    file: bytes,
    place: str,
    max_bytes: int,
    reserve: Callable[[int], None],
    more: Callable[[int, int], int],
    prepare: Callable[[Iterator[Image.Image]], Prepared],
) -> Prepared:
    """Decode an image and prepare its upright channels, which takes `more` memory by the image's width and height."""
    canvas = formats.webp_canvas(file)
    if canvas is not None:  # Pillow allocates it when it opens the file
        reserve(_memory(*canvas, WEBP_BYTES_PER_PIXEL, max_bytes, place) + more(*canvas))
    image = formats.open_image(file, place)
    with image:
        needed = _memory(*image.size, _bytes_per_pixel(image, file), max_bytes, place)
        if canvas is None:
            reserve(needed + more(*image.size))
        try:
            return prepare(_channels(image, file))
        except MemoryError:
            raise
        except Exception as exc:  # Pillow's decoders raise many types of exception
            raise InvalidRequest(f"{place} is a corrupt {formats.format_name(image)} image", param=place) from exc


def _memory(width: int, height: int, bytes_per_pixel: int, max_bytes: int, place: str) -> int:
    if min(width, height) < MIN_SIDE:
        raise InvalidRequest(
            f"{place} has {width} x {height} pixels; the minimum is {MIN_SIDE} x {MIN_SIDE}", param=place
        )
    needed = width * height * bytes_per_pixel
    if needed > max_bytes:
        limit = max_bytes // bytes_per_pixel
        raise InvalidRequest(
            f"{place} has {width} x {height} pixels; the limit for this type of image is {limit} pixels", param=place
        )
    return needed


def _bytes_per_pixel(image: Image.Image, file: bytes) -> int:
    """Memory per pixel to decode and prepare an image. Pillow stores RGB and LA in four bytes per pixel, too."""
    if image.format == "WEBP":
        return WEBP_BYTES_PER_PIXEL
    if formats.format_name(image) == "JPEG" and formats.scans(file) > 1:
        return 4 + 2 * len(image.getbands())  # with several scans, the decoder keeps all coefficients
    if image.mode in ("CMYK", "LA", "PA") or formats.has_low_bytes(image):
        return BYTES_PER_PIXEL + 4  # for the conversion to RGB, or for the low bytes
    return BYTES_PER_PIXEL


def _resizing(processor: AnyProcessor, height: int, width: int) -> int:
    """The memory that an image of this size takes to be resized and cut, in bytes."""
    layout = processor.layout(height, width)
    most = 0
    for rows, columns in layout.sizes:
        factors = FACTOR_BYTES * (max(height, rows) + max(width, columns))
        # Pillow resizes rows first, then columns. The result is copied to a tile, and twice to an array.
        most = max(most, factors + height * columns + 4 * rows * columns)
        height, width = rows, columns
    return layout.patches * processor.patch_bytes + most


def _channels(image: ImageFile, file: bytes) -> Iterator[Image.Image]:
    """The upright channels on white: red, green and blue, or one."""
    covered = image.tile[0].extents if image.tile else None
    image.load()
    upright = _upright(image)
    for decoded in background.channels(image, formats.low_bytes(file, image)):
        if covered is not None:
            background.whiten_outside(decoded, covered)
        yield decoded if upright is None else decoded.transpose(upright)


def _crop(channels: Iterator[Image.Image], preparation: Preparation) -> bytes:
    pixels: list[bytes] = []
    for channel in channels:
        resized = preparation.resized(*channel.size)
        # Resize only the part that is kept: resizing all of an image of 2 x 10,000,000 pixels would enlarge it.
        left, right = _centre(channel.width, resized[0], preparation.width)
        top, bottom = _centre(channel.height, resized[1], preparation.height)
        size = (preparation.width, preparation.height)
        pixels.append(channel.resize(size, preparation.resample, (left, top, right, bottom)).tobytes())
    return b"".join(pixels if len(pixels) == 3 else pixels * 3)


def _cut(channels: Iterator[Image.Image], processor: AnyProcessor) -> Patches:
    first = next(channels)
    layout = processor.layout(first.height, first.width)
    side, merge = processor.patch, processor.merge
    pixels = np.empty((layout.patches, 3, side, side), np.uint8)
    count = 0
    for channel in chain((first,), channels):
        start = 0
        for part, (rows, columns) in zip(_parts(channel, layout, processor.filter), layout.grids, strict=True):
            blocks = np.asarray(part).reshape(rows // merge, merge, side, columns // merge, merge, side)
            stop = start + rows * columns
            pixels[start:stop, count] = blocks.transpose(0, 3, 1, 4, 2, 5).reshape(-1, side, side)
            start = stop
        count += 1
    if count == 1:
        pixels[:, 1:] = pixels[:, :1]
    return Patches(pixels.reshape(layout.patches, -1), layout.grids, layout.tiles)


def _parts(channel: Image.Image, layout: Layout, resample: Resampling) -> Iterator[Image.Image]:
    """One channel of each image of a layout. Each resizing rounds to whole values, as in transformers."""
    for height, width in layout.sizes:
        channel = channel.resize((width, height), resample)
    rows, columns = layout.tiles
    if not rows:
        yield channel
        return
    height, width = channel.height // rows, channel.width // columns
    for top in range(0, channel.height, height):
        for left in range(0, channel.width, width):
            yield channel.crop((left, top, left + width, top + height))
    yield channel.resize((width, height), resample)


def _upright(image: Image.Image) -> Transpose | None:
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - cameras often write invalid EXIF data in valid images
        return None


def _centre(length: int, resized: int, kept: int) -> tuple[float, float]:
    """The begin and end of the centre crop along one side, in pixels of the original image."""
    start = (resized - kept) // 2  # rounds as transformers' center_crop
    scale = length / resized
    return start * scale, min((start + kept) * scale, length)
