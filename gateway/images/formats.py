"""Opens image files: checks the format, and corrects how Pillow decodes some files.

Importing this module changes how `PIL.Image.open` reads PNG, JPEG, BMP and WebP.
"""

import io
from collections.abc import Mapping

from PIL import BmpImagePlugin, Image, ImagePalette, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
from PIL.ImageFile import ImageFile

from gateway.errors import InvalidRequest

Image.MAX_IMAGE_PIXELS = None  # `gateway.images.preprocess` checks the size before decoding, and names the limit

FORMATS: Mapping[str, str] = {"PNG": "PNG", "JPEG": "JPEG", "WEBP": "WebP", "GIF": "GIF", "BMP": "BMP"}
"""The supported formats: Pillow's name and the usual name."""
MARKERS = (b"%pdf-", b"<?php", b"<script", b"<svg", b"<html", b"<!doctype")
"""Markers of other file types, in lower case, found near the beginning or the end of a file."""
MARKED_BYTES = 1024
"""How much of each end is searched for MARKERS."""
PNG_BITS: Mapping[str, int] = {"L;2": 2, "L;4": 4, "L": 8, "RGB": 8, "RGB;16B": 16}
"""Bits per sample by Pillow's raw mode, for the modes in which Pillow does not scale the transparent colour."""
MAX_SCANS = 50
"""The most scans of a JPEG. Encoders write about ten. Each scan of a progressive JPEG, even one of ten bytes, makes the
decoder process the whole image."""
ARITHMETIC_FRAMES = (0xFFC9, 0xFFCA, 0xFFCB, 0xFFCD, 0xFFCE, 0xFFCF)
"""Start-of-frame markers of JPEGs with arithmetic coding (ITU-T T.81, table B.1)."""
START_OF_SCAN = b"\xff\xda"
BMP_CORE_HEADER = 12
"""The size of BMP's oldest header (BITMAPCOREHEADER), which has the bits per pixel at another offset."""
BMP_RUN_LENGTHS = (1, 2)
"""The compression methods BI_RLE8 and BI_RLE4."""
WEBP_ANIMATED = 0x02
"""The animation flag of a WebP file (RFC 9649, section 2.7)."""


class _Png(PngImagePlugin.PngImageFile):
    """Converts the transparent colour (the tRNS chunk) to a value of the decoded image."""

    low_key: tuple[int, ...] | None = None
    """The low bytes of a 16-bit transparent colour; Pillow decodes only the high byte of each sample."""

    def _open(self) -> None:
        super()._open()
        raw = self.tile[0].args if self.tile else None
        bits = PNG_BITS.get(raw, 0) if isinstance(raw, str) else 0
        key, most = self.info.get("transparency"), 2**bits - 1
        if isinstance(key, int) and bits:
            self.info["transparency"] = (key & most) * (255 // most)
        elif isinstance(key, tuple):
            self.info["transparency"] = tuple((value & most) >> (bits - 8) for value in key)
            if bits == 16:
                self.low_key = tuple(value & 255 for value in key)


class _Bitmap(BmpImagePlugin.BmpImageFile):
    """Keeps a greyscale palette. Pillow drops it and assumes 1 or 8 bits per pixel, even if there are 4 or 8."""

    def _open(self) -> None:
        super()._open()
        if self.fp is None or self.mode not in ("1", "L"):
            return
        self.fp.seek(14)
        head = self.fp.read(16)
        bits = head[10] if head[0] == BMP_CORE_HEADER else head[14]
        if bits != {"1": 1, "L": 8}[self.mode]:
            greys = (0, 255) if self.mode == "1" else range(2**bits)
            self.palette = ImagePalette.raw("RGB", bytes(value for grey in greys for value in (grey,) * 3))
            self._mode = "P"
            raw = "P" if bits == 8 else f"P;{bits}"
            self.tile = [tile._replace(args=(raw, *(tile.args or ())[1:])) for tile in self.tile]


class _WebP(WebPImagePlugin.WebPImageFile):
    """Makes the canvas of an animation transparent where the first frame does not cover it, even if the file declares
    no transparency."""

    def _open(self) -> None:
        super()._open()
        if self.fp is None:
            return
        self.fp.seek(12)
        head = self.fp.read(9)
        if head.startswith(b"VP8X") and head[8] & WEBP_ANIMATED:
            self._mode = self.rawmode = "RGBA"


def _note_arithmetic(self: JpegImagePlugin.JpegImageFile, marker: int) -> None:  # Pillow's signature
    JpegImagePlugin.SOF(self, marker)
    self.info["arithmetic"] = True


for _marker in ARITHMETIC_FRAMES:
    JpegImagePlugin.MARKER[_marker] = ("SOF", "Start of frame", _note_arithmetic)
for _plugin in (_Png, _Bitmap, _WebP):
    Image.register_open(_plugin.format, _plugin, Image.OPEN[_plugin.format][1])


def has_low_bytes(image: Image.Image) -> bool:
    """Whether the low byte of each sample is needed to find the transparent pixels of a PNG."""
    return isinstance(image, _Png) and image.low_key is not None


def low_bytes(file: bytes, image: Image.Image) -> Image.Image | None:
    """The low byte of each sample, if it is needed."""
    if not isinstance(image, _Png) or image.low_key is None:
        return None
    low = Image.open(io.BytesIO(file), formats=("PNG",))
    low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]  # read as little-endian to get the low byte
    low.info["transparency"] = image.low_key
    return low


def webp_canvas(file: bytes) -> tuple[int, int] | None:
    """The width and height that a WebP file declares (RFC 9649, sections 2.5 to 2.7); None for other formats."""
    if file[:4] != b"RIFF" or file[8:12] != b"WEBP":
        return None
    chunk, head = file[12:16], file[20:30].ljust(10, b"\0")
    if chunk == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF


def open_image(file: bytes, place: str) -> ImageFile:
    """Read the header of an image file. No pixels are decoded, but Pillow allocates the canvas of a WebP file.

    Args:
        file: PNG, JPEG, WebP, GIF or BMP.
        place: the field for error messages.

    Raises:
        InvalidRequest: the file has another format, is also another file type, or would take long to decode.
    """
    try:
        image = Image.open(io.BytesIO(file), formats=tuple(FORMATS))
    except MemoryError:
        raise
    except Exception as exc:
        raise InvalidRequest(f"{place} is not a PNG, JPEG, WebP, GIF or BMP image", param=place) from exc
    if _is_polyglot(file):
        raise InvalidRequest(f"{place} is both a {format_name(image)} image and another type of file", param=place)
    if image.format == "BMP" and image.info["compression"] in BMP_RUN_LENGTHS:
        # Pillow decodes run lengths in Python: 200 bytes may take seconds.
        raise InvalidRequest(f"{place} is a compressed BMP; send an uncompressed BMP or a PNG", param=place)
    if format_name(image) == "JPEG" and "arithmetic" in image.info:
        # Browsers do not support it, and 2 KB may take 6 s.
        raise InvalidRequest(f"{place} is a JPEG with arithmetic coding; use Huffman coding", param=place)
    if format_name(image) == "JPEG" and scans(file) > MAX_SCANS:
        raise InvalidRequest(f"{place} is a JPEG with more than {MAX_SCANS} scans", param=place)
    return image


def scans(file: bytes) -> int:
    """The number of scans of a JPEG, including those of an embedded preview."""
    return file.count(START_OF_SCAN)


def format_name(image: Image.Image) -> str:
    """The usual name of an image's format."""
    return FORMATS.get(image.format or "", "JPEG")  # Pillow calls several JPEGs in one file MPO


def _is_polyglot(file: bytes) -> bool:
    """Whether other programs would read an image as an archive, a document or a script, as in an attack."""
    ends = (file[:MARKED_BYTES] + file[-MARKED_BYTES:]).lower()
    return any(marker in ends for marker in MARKERS) or _ends_in_archive(file)


def _ends_in_archive(file: bytes) -> bool:
    """Whether a file ends in a ZIP central directory (APPNOTE.TXT 6.3.10, sections 4.3.12 and 4.3.16)."""
    end = file.rfind(b"PK\x05\x06", -(22 + 2**16))
    if end < 0:
        return False
    size = int.from_bytes(file[end + 12 : end + 16], "little")
    return 0 < size <= end and file.startswith(b"PK\x01\x02", end - size)
