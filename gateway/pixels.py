"""An image file to the pixels that a tower sees: what Pillow reads, prepared as the model's own processor would.

Runs in the processes of `gateway.decoder`.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from PIL import Image, WebPImagePlugin  # noqa: F401 - Pillow finds the others by itself
from PIL.Image import Resampling, Transpose

from gateway.errors import InvalidRequest

Image.MAX_IMAGE_PIXELS = None  # `read` checks, before anything is decoded, and names the limit

FORMATS: Mapping[str, str] = {"PNG": "PNG", "JPEG": "JPEG", "WEBP": "WebP", "GIF": "GIF", "BMP": "BMP"}
"""Pillow's names of what is read, and everybody else's."""
LEAST_SIDE = 2
"""An image of one row or column shows nothing, and image processors take it for something else."""
PLAIN_BYTES = 6
"""Memory for a pixel of most images while they are decoded and prepared: four bytes, and a channel twice beside."""
WEBP_BYTES = 20
"""The decoder's two canvases and its own copy, Pillow's copy of it, and the image."""
START_OF_SCAN = b"\xff\xda"
"""Of a JPEG (ITU-T T.81, table B.1); with more than one, the decoder keeps all coefficients."""
STRIP_PIXELS = 2**20
"""Put on white at a time, in place."""
MARKERS = (b"%pdf-", b"<?php", b"<script", b"<svg", b"<html", b"<!doctype")
"""What other kinds of file have near one of their ends, in lower case."""
MARKED_BYTES = 1024


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


@dataclass(frozen=True, slots=True)
class Preparation:
    """How a model's image processor brings an image to one size."""

    height: int
    width: int
    """What the tower sees: the middle of the resized image."""
    resize: int | tuple[int, int]
    """What the shorter side is resized to, or height and width, whatever shape that makes of an image."""
    resample: Resampling

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height before the middle is cut out, of an image of this size."""
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        short, long = sorted((width, height))
        other = int(self.resize * long / short)  # as transformers' get_resize_output_image_size rounds
        return (self.resize, other) if width <= height else (other, self.resize)


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
        InvalidRequest: it is none of these, broken, another kind of file as well, too small or too large.
        MemoryError: it takes more than it seems to.
    """
    canvas = _webp_canvas(file)
    if canvas is not None:
        reserve(_memory(*canvas, WEBP_BYTES, max_bytes, place))  # Pillow makes the canvas when it opens the file
    image = _open(file, place)
    with image:
        needed = _memory(*image.size, _bytes_a_pixel(image, file), max_bytes, place)
        if canvas is None:
            reserve(needed)
        try:
            image.load()
            return _prepare(image, preparation)
        except MemoryError:
            raise
        except Exception as exc:  # Pillow's decoders raise whatever comes to them
            raise InvalidRequest(f"{place} is a broken {_kind(image)} image", param=place) from exc


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


def _webp_canvas(file: bytes) -> tuple[int, int] | None:
    """Width and height that a WebP file declares (RFC 9649, sections 2.5 to 2.7); None of other files."""
    if file[:4] != b"RIFF" or file[8:12] != b"WEBP":
        return None
    kind, head = file[12:16], file[20:30].ljust(10, b"\0")
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF


def _open(file: bytes, place: str) -> Image.Image:
    """Read what stands at the beginning of a file."""
    try:
        image = Image.open(io.BytesIO(file), formats=tuple(FORMATS))
    except MemoryError:
        raise
    except Exception as exc:
        raise InvalidRequest(f"{place} is not an image in {', '.join(FORMATS.values())}", param=place) from exc
    if _is_something_else(file):
        raise InvalidRequest(f"{place} is a {_kind(image)} image and another kind of file at once", param=place)
    return image


def _kind(image: Image.Image) -> str:
    return FORMATS.get(image.format or "", "JPEG")  # several JPEGs in one file are MPO to Pillow


def _is_something_else(file: bytes) -> bool:
    """Whether other programs would take an image for an archive, a document or a program: it was made to deceive."""
    ends = (file[:MARKED_BYTES] + file[-MARKED_BYTES:]).lower()
    return any(marker in ends for marker in MARKERS) or _ends_in_archive(file)


def _ends_in_archive(file: bytes) -> bool:
    """Whether a ZIP directory and its end stand at the end (APPNOTE.TXT 6.3.10, sections 4.3.12 and 4.3.16)."""
    end = file.rfind(b"PK\x05\x06", -(22 + 2**16))
    if end < 0:
        return False
    size = int.from_bytes(file[end + 12 : end + 16], "little")
    return 0 < size <= end and file.startswith(b"PK\x01\x02", end - size)


def _bytes_a_pixel(image: Image.Image, file: bytes) -> int:
    """Memory that decoding and preparing take for each pixel; Pillow has RGB and LA in four bytes too."""
    if image.format == "WEBP":
        return WEBP_BYTES
    if _kind(image) == "JPEG" and file.count(START_OF_SCAN) > 1:
        return 4 + 2 * len(image.getbands())  # the image, and its coefficients
    if image.mode in ("CMYK", "LA", "PA"):
        return PLAIN_BYTES + 4  # when they become RGB
    return PLAIN_BYTES


def _prepare(image: Image.Image, preparation: Preparation) -> bytes:
    upright = _upright(image)
    pixels: list[bytes] = []
    for channel in _channels(image):
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


def _channels(image: Image.Image) -> Iterator[Image.Image]:
    """Red, green and blue of an image on white, or the one channel of a grey one."""
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        _put_on_white(image)
    elif image.mode in ("1", "L", "I", "I;16"):
        yield image.convert("L")  # a channel beside the image, not three
        return
    elif image.mode != "RGB":
        image = image.convert("RGB")
    for channel in "RGB":
        yield image.getchannel(channel)


def _put_on_white(image: Image.Image) -> None:
    """Composite an RGBA image, in place: a copy would double its memory."""
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        white = Image.new("RGBA", strip.size, "white")
        white.alpha_composite(strip)
        image.paste(white, (0, top))
