"""Turns an image file into a model's input, with Pillow, as the model's own image processor would.

Runs in the processes of `gateway.images.worker`.
"""

from collections.abc import Callable, Mapping

from PIL import Image
from PIL.Image import Transpose
from PIL.ImageFile import ImageFile

from gateway.errors import InvalidRequest
from gateway.images import background, formats
from gateway.images.preparation import Preparation

MIN_SIDE = 2
"""The smallest width and height, in pixels. Image processors mistake an image of one row or column for another
layout."""
BYTES_PER_PIXEL = 6
"""Memory per pixel to decode and prepare most images: four bytes for the image, and two for copies of one channel."""
WEBP_BYTES_PER_PIXEL = 20
"""Memory per pixel to decode a WebP: the decoder's two canvases and its copy, Pillow's copy, and the image, of four
bytes each."""
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
    canvas = formats.webp_canvas(file)
    if canvas is not None:
        reserve(_memory(*canvas, WEBP_BYTES_PER_PIXEL, max_bytes, place))  # Pillow allocates it when it opens the file
    image = formats.open_image(file, place)
    with image:
        needed = _memory(*image.size, _bytes_per_pixel(image, file), max_bytes, place)
        if canvas is None:
            reserve(needed)
        try:
            return _prepare(image, file, preparation)
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


def _prepare(image: ImageFile, file: bytes, preparation: Preparation) -> bytes:
    covered = image.tile[0].extents if image.tile else None
    image.load()
    upright = _upright(image)
    pixels: list[bytes] = []
    for decoded in background.channels(image, formats.low_bytes(file, image)):
        if covered is not None:
            background.whiten_outside(decoded, covered)
        channel = decoded if upright is None else decoded.transpose(upright)
        resized = preparation.resized(*channel.size)
        # Resize only the part that is kept: resizing all of an image of 2 x 10,000,000 pixels would enlarge it.
        left, right = _crop(channel.width, resized[0], preparation.width)
        top, bottom = _crop(channel.height, resized[1], preparation.height)
        size = (preparation.width, preparation.height)
        pixels.append(channel.resize(size, preparation.resample, (left, top, right, bottom)).tobytes())
    return b"".join(pixels if len(pixels) == 3 else pixels * 3)


def _upright(image: Image.Image) -> Transpose | None:
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - cameras often write invalid EXIF data in valid images
        return None


def _crop(length: int, resized: int, kept: int) -> tuple[float, float]:
    """The begin and end of the centre crop along one side, in pixels of the original image."""
    start = (resized - kept) // 2  # rounds as transformers' center_crop
    scale = length / resized
    return start * scale, min((start + kept) * scale, length)
