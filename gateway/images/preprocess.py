"""An image file to the pixels that a model sees: what Pillow reads, prepared as the model's own processor would.

Runs in the processes of `gateway.images.worker`.
"""

from collections.abc import Callable, Mapping

from PIL import Image
from PIL.Image import Transpose
from PIL.ImageFile import ImageFile

from gateway.errors import InvalidRequest
from gateway.images import background, formats
from gateway.images.preparation import Preparation

LEAST_SIDE = 2
"""An image of one row or column shows nothing, and image processors take it for something else."""
PLAIN_BYTES = 6
"""Memory for a pixel of most images while they are decoded and prepared: four bytes, and a channel twice beside."""
WEBP_BYTES = 20
"""The decoder's two canvases and its own copy, Pillow's copy of it, and the image."""
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
"""What makes an image upright, by the value of EXIF's tag Orientation (CIPA DC-008, section 4.6.4 A)."""


def read(file: bytes, preparation: Preparation, place: str, max_bytes: int, reserve: Callable[[int], None]) -> bytes:
    """Decode an image: its first frame, upright, on white, resized and cut.

    Args:
        file: PNG, JPEG, WebP, GIF or BMP.
        preparation: of the model.
        place: what error messages call the image.
        max_bytes: memory that it may take.
        reserve: called with the memory that it takes before any is taken.

    Returns:
        UINT8 [3, H, W].

    Raises:
        InvalidRequest: it is none of these, broken, another kind of file as well, too small or too large, or too slow.
        MemoryError: it takes more than it seems to.
    """
    canvas = formats.webp_canvas(file)
    if canvas is not None:
        reserve(_memory(*canvas, WEBP_BYTES, max_bytes, place))  # Pillow makes the canvas when it opens the file
    image = formats.open_image(file, place)
    with image:
        needed = _memory(*image.size, _bytes_a_pixel(image, file), max_bytes, place)
        if canvas is None:
            reserve(needed)
        try:
            return _prepare(image, file, preparation)
        except MemoryError:
            raise
        except Exception as exc:  # Pillow's decoders raise whatever comes to them
            raise InvalidRequest(f"{place} is a broken {formats.kind(image)} image", param=place) from exc


def _memory(width: int, height: int, bytes_a_pixel: int, max_bytes: int, place: str) -> int:
    if min(width, height) < LEAST_SIDE:
        raise InvalidRequest(
            f"{place} has {width} x {height} pixels; it must have {LEAST_SIDE} x {LEAST_SIDE}", param=place
        )
    needed = width * height * bytes_a_pixel
    if needed > max_bytes:
        raise InvalidRequest(
            f"{place} has {width} x {height} pixels; an image of its kind may have {max_bytes // bytes_a_pixel}",
            param=place,
        )
    return needed


def _bytes_a_pixel(image: Image.Image, file: bytes) -> int:
    """Memory that decoding and preparing take for each pixel; Pillow has RGB and LA in four bytes too."""
    if image.format == "WEBP":
        return WEBP_BYTES
    if formats.kind(image) == "JPEG" and formats.scans(file) > 1:
        return 4 + 2 * len(image.getbands())  # the image, and its coefficients, which the decoder keeps then
    if image.mode in ("CMYK", "LA", "PA") or formats.has_low_bytes(image):
        return PLAIN_BYTES + 4  # when they become RGB, or the low bytes are read beside
    return PLAIN_BYTES


def _prepare(image: ImageFile, file: bytes, preparation: Preparation) -> bytes:
    covered = image.tile[0].extents if image.tile else None
    image.load()
    upright = _upright(image)
    pixels: list[bytes] = []
    for channel in background.channels(image, formats.low_bytes(file, image)):
        if covered is not None:
            background.leave_out(channel, covered)
        lying = channel if upright is None else channel.transpose(upright)
        resized = preparation.resized(*lying.size)
        # Only what is seen is resized: the whole of an image of 2 x 10,000,000 pixels would grow.
        left, right = _seen(lying.width, resized[0], preparation.width)
        top, bottom = _seen(lying.height, resized[1], preparation.height)
        size = (preparation.width, preparation.height)
        pixels.append(lying.resize(size, preparation.resample, (left, top, right, bottom)).tobytes())
    return b"".join(pixels if len(pixels) == 3 else pixels * 3)


def _upright(image: Image.Image) -> Transpose | None:
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - what cameras write there is often broken, and the image is not
        return None


def _seen(length: int, resized: int, cut: int) -> tuple[float, float]:
    """Where the middle begins and ends along one side, in pixels of the original."""
    start = (resized - cut) // 2  # as transformers' center_crop rounds
    scale = length / resized
    return start * scale, min((start + cut) * scale, length)
