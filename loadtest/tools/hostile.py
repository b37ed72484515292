"""Images made to take memory or time: each a few lines of what is wrong with it, in a file that is small for that."""

import io
import struct
import zlib
from collections.abc import Callable, Mapping

from PIL import Image

from gateway.images.data_uri import MAX_CHARACTERS
from loadtest.tools.pictures import file, scene

SMALL = scene(60, 40, 0)


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, data: bytes = b"", *, before: bytes = b"", bits: int = 8, colours: int = 2) -> bytes:
    """A PNG that says it is of some size, whatever it holds."""
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    parts = png_chunk(b"IHDR", header) + before + png_chunk(b"IDAT", zlib.compress(data)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def gif_of_one_large_frame() -> bytes:
    """Pillow fills a frame when it opens the file, if one says that it is to be disposed of to the background."""
    head = b"GIF89a" + struct.pack("<HHBBB", 2, 2, 0x80, 1, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 65535, 40000, 0) + b"\x02\x02\x4c\x01\0;"
    return head + b"\x21\xf9\x04" + bytes([2 << 2]) + bytes(4) + frame


def gif_of_comments() -> bytes:
    image = file(SMALL.convert("P"), "GIF")
    palette = 13 + (3 << ((image[10] & 7) + 1) if image[10] & 128 else 0)
    return image[:palette] + b"\x21\xfe" + b"\2ab" * 3_000_000 + b"\0" + image[palette:]


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def _jpeg_head(frame: int, width: int, height: int, components: int) -> bytes:
    parts = b"".join(bytes([i + 1, 0x11, 0]) for i in range(components))
    tables = b"".join(jpeg_segment(0xC4, bytes([kind << 4, 1, *[0] * 15, symbol])) for kind, symbol in ((0, 0), (1, 0)))
    head = jpeg_segment(frame, struct.pack(">BHHB", 8, height, width, components) + parts)
    return b"\xff\xd8" + jpeg_segment(0xDB, b"\0" + b"\1" * 64) + head + tables


def jpeg_of_separate_components(width: int = 8000, height: int = 4999) -> bytes:
    """Not progressive, and yet the decoder keeps all coefficients."""
    blocks = -(-width // 8) * -(-height // 8)
    scans = [jpeg_segment(0xDA, bytes([1, i + 1, 0, 0, 63, 0])) + bytes(blocks // 4 + 1) for i in range(3)]
    return _jpeg_head(0xC0, width, height, 3) + b"".join(scans) + b"\xff\xd9"


def jpeg_of_many_scans(width: int = 4000, height: int = 3000, count: int = 100_000) -> bytes:
    """Each goes through all coefficients."""
    blocks = -(-width // 8) * -(-height // 8)
    first = jpeg_segment(0xDA, bytes([3, 1, 0, 2, 0, 3, 0, 0, 0, 0])) + bytes(blocks * 3 // 8 + 1)
    head = _jpeg_head(0xC2, width, height, 3)[:-21] + jpeg_segment(0xC4, bytes([0x10, 1, *[0] * 15, 0xE0]))
    bits = ("0" + "10" * 7) * (blocks // (16384 + 0b10101010101010) + 1)
    runs = (
        int(bits.ljust(-(-len(bits) // 8) * 8, "1"), 2).to_bytes(-(-len(bits) // 8), "big").replace(b"\xff", b"\xff\0")
    )
    return head + first + (jpeg_segment(0xDA, bytes([1, 1, 0, 1, 63, 0])) + runs) * count + b"\xff\xd9"


def arithmetic_jpeg(width: int = 4896, height: int = 4896, count: int = 49, *, progressive: bool = True) -> bytes:
    """Each scan goes through all blocks bit by bit, and finds zeros where its data ends."""
    parts = b"".join(bytes([i + 1, 0x11, 0]) for i in range(3))
    frame = jpeg_segment(0xCA if progressive else 0xC9, struct.pack(">BHHB", 8, height, width, 3) + parts)
    scan = jpeg_segment(0xDA, bytes([3, 1, 0, 2, 0, 3, 0, 0, 0 if progressive else 63, 0])) + b"\x55" * 10
    return b"\xff\xd8" + jpeg_segment(0xDB, b"\0" + b"\1" * 64) + frame + scan * count + b"\xff\xd9"


def jpeg_of_exif_parts() -> bytes:
    """Pillow joins them one by one."""
    parts = jpeg_segment(0xE1, b"Exif\0\0" + b"M" * 65000) * 80 + jpeg_segment(0xE1, b"Exif\0\0X") * 300_000
    return b"\xff\xd8" + parts + file(SMALL, "JPEG")[2:]


def jpeg_of_empty_segments() -> bytes:
    return b"\xff\xd8" + b"\xff\xe0\0\2" * 2_500_000 + file(SMALL, "JPEG")[2:]


def png_of_text() -> bytes:
    """One emoji makes Python keep four bytes for each of a million characters."""
    packed = zlib.compress(("\U0001f600" + "a" * (2**20 - 4)).encode(), 9)
    texts = b"".join(png_chunk(b"iTXt", b"k%d" % i + b"\0\1\0\0\0" + packed) for i in range(63))
    return png(8000, 4999, bytes((8000 * 4 + 1) * 4999), before=texts, colours=6)


def png_of_profiles() -> bytes:
    return png(60, 40, before=png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**20), 9)) * 9000)


def thin_png() -> bytes:
    """Resizing keeps as many factors as there are columns."""
    return png(20_000_000, 2, bytes(2 * (20_000_000 + 1)), colours=0)


def run_length_bmp(width: int, height: int, bits: int = 8) -> bytes:
    """One run and the end of each line, which Pillow fills in Python."""
    data, palette = b"\1\1\0\0" * height + b"\0\1", bytes(8)
    start = 14 + 40 + len(palette)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 1 if bits == 8 else 2, len(data), 0, 0, 2, 0)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + head + palette + data


def webp_of_a_large_canvas() -> bytes:
    inner = file(SMALL, "WEBP")[12:]
    canvas = bytes([2, 0, 0, 0]) + (60_000 - 1).to_bytes(3, "little") * 2
    frame = bytes(6) + (59).to_bytes(3, "little") + (39).to_bytes(3, "little") + bytes(4) + inner
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    body += b"ANMF" + struct.pack("<I", len(frame)) + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


def large_progressive() -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (4800, 4800), "teal").save(written, "JPEG", progressive=True)
    return written.getvalue()


def spaced_base64() -> str:
    """As long as any may be, a third of it spaces."""
    return "AA " * (MAX_CHARACTERS // 3)


FILES: Mapping[str, Callable[[], bytes]] = {
    "a GIF of one large frame": gif_of_one_large_frame,
    "a GIF of comments": gif_of_comments,
    "a JPEG of separate components": jpeg_of_separate_components,
    "a JPEG of many scans": jpeg_of_many_scans,
    "a JPEG of arithmetic coding": arithmetic_jpeg,
    "a JPEG of EXIF parts": jpeg_of_exif_parts,
    "a JPEG of empty segments": jpeg_of_empty_segments,
    "a PNG of text": png_of_text,
    "a PNG of profiles": png_of_profiles,
    "a thin PNG": thin_png,
    "a BMP of runs": lambda: run_length_bmp(1_000_000, 40),
    "a WebP of a large canvas": webp_of_a_large_canvas,
    "the largest progressive JPEG": large_progressive,
}
