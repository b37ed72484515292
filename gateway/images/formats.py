"""Opens image files: which formats are read, and what Pillow must be told of them before it decodes them.

Importing this module changes what `PIL.Image.open` makes of PNG, JPEG, BMP and WebP.
"""

import io
from collections.abc import Mapping

from PIL import BmpImagePlugin, Image, ImagePalette, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
from PIL.ImageFile import ImageFile

from gateway.errors import InvalidRequest

Image.MAX_IMAGE_PIXELS = None  # `gateway.images.preprocess` checks, before anything is decoded, and names the limit

FORMATS: Mapping[str, str] = {"PNG": "PNG", "JPEG": "JPEG", "WEBP": "WebP", "GIF": "GIF", "BMP": "BMP"}
"""Pillow's names of what is read, and everybody else's."""
MARKERS = (b"%pdf-", b"<?php", b"<script", b"<svg", b"<html", b"<!doctype")
"""What other kinds of file have near one of their ends, in lower case."""
MARKED_BYTES = 1024
PNG_BITS: Mapping[str, int] = {"L;2": 2, "L;4": 4, "L": 8, "RGB": 8, "RGB;16B": 16}
"""Bits of a sample by Pillow's raw mode, where the transparent colour is left as it stands in the file."""
MAX_SCANS = 50
"""Of a JPEG. Encoders write about ten; each goes through all of a progressive image, if it has ten bytes only."""
ARITHMETIC_FRAMES = (0xFFC9, 0xFFCA, 0xFFCB, 0xFFCD, 0xFFCE, 0xFFCF)
"""Of a JPEG with arithmetic coding (ITU-T T.81, table B.1)."""
START_OF_SCAN = b"\xff\xda"
BMP_CORE_HEADER = 12
"""The size of BMP's oldest header (BITMAPCOREHEADER), which has the bits of a pixel at another offset."""
BMP_RUN_LENGTHS = (1, 2)
"""The compressions BI_RLE8 and BI_RLE4."""
WEBP_ANIMATED = 0x02
"""The flag of an extended file (RFC 9649, section 2.7)."""


class _Png(PngImagePlugin.PngImageFile):
    """Has its transparent colour (the tRNS chunk) as a value of the decoded image."""

    low_key: tuple[int, ...] | None = None
    """The low bytes of a colour of 16 bits; Pillow decodes the high byte of each sample."""

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
    """Keeps a palette of greys, which Pillow drops as if pixels had 1 or 8 bits then, and not 4 or 8."""

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
    """Is transparent where its first frame leaves out some of the canvas, even if it declares no transparency."""

    def _open(self) -> None:
        super()._open()
        if self.fp is None:
            return
        self.fp.seek(12)
        head = self.fp.read(9)
        if head.startswith(b"VP8X") and head[8] & WEBP_ANIMATED:
            self._mode = self.rawmode = "RGBA"


def _note_arithmetic(self: JpegImagePlugin.JpegImageFile, marker: int) -> None:  # as Pillow has these
    JpegImagePlugin.SOF(self, marker)
    self.info["arithmetic"] = True


for _marker in ARITHMETIC_FRAMES:
    JpegImagePlugin.MARKER[_marker] = ("SOF", "Start of frame", _note_arithmetic)
for _plugin in (_Png, _Bitmap, _WebP):
    Image.register_open(_plugin.format, _plugin, Image.OPEN[_plugin.format][1])


def has_low_bytes(image: Image.Image) -> bool:
    """Whether the low byte of each sample counts, to tell which colour of a PNG is transparent."""
    return isinstance(image, _Png) and image.low_key is not None


def low_bytes(file: bytes, image: Image.Image) -> Image.Image | None:
    """The low byte of each sample, if it counts."""
    if not isinstance(image, _Png) or image.low_key is None:
        return None
    low = Image.open(io.BytesIO(file), formats=("PNG",))
    low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]  # little-endian: takes the other byte
    low.info["transparency"] = image.low_key
    return low


def webp_canvas(file: bytes) -> tuple[int, int] | None:
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


def open_image(file: bytes, place: str) -> ImageFile:
    """Read what stands at the beginning of a file; nothing of an image is decoded, except that WebP makes its canvas.

    Args:
        file: PNG, JPEG, WebP, GIF or BMP.
        place: what error messages call the image.

    Raises:
        InvalidRequest: it is none of these, another kind of file as well, or of a kind that takes long to decode.
    """
    try:
        image = Image.open(io.BytesIO(file), formats=tuple(FORMATS))
    except MemoryError:
        raise
    except Exception as exc:
        raise InvalidRequest(f"{place} is not an image in {', '.join(FORMATS.values())}", param=place) from exc
    if _is_something_else(file):
        raise InvalidRequest(f"{place} is a {kind(image)} image and another kind of file at once", param=place)
    if image.format == "BMP" and image.info["compression"] in BMP_RUN_LENGTHS:
        # Pillow expands it in Python: 200 bytes may take it seconds.
        raise InvalidRequest(f"{place} is a compressed BMP image; send it as PNG, or without compression", param=place)
    if kind(image) == "JPEG" and "arithmetic" in image.info:
        # No browser reads it; 2 KB may take 6 s.
        raise InvalidRequest(
            f"{place} is a JPEG image with arithmetic coding; send it with Huffman coding", param=place
        )
    if kind(image) == "JPEG" and scans(file) > MAX_SCANS:
        raise InvalidRequest(f"{place} is a JPEG image of more than {MAX_SCANS} scans", param=place)
    return image


def scans(file: bytes) -> int:
    """How many scans a JPEG has, those of a preview in it included."""
    return file.count(START_OF_SCAN)


def kind(image: Image.Image) -> str:
    """What everybody calls the format of an image."""
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
