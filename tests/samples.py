"""Image files of every mode, written here from their samples, and what they show on white, in floating point."""

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loadtest.tools.hostile import png_chunk
from loadtest.tools.pictures import file, scene

HEIGHT, WIDTH = 48, 64
GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
"""Colour types of PNG (ISO/IEC 15948, table 11.1)."""
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row and column, and steps down and across, of each pass of an interlaced PNG (section 8.2)."""

Samples = NDArray[np.int64]
"""[H, W] or [H, W, channels]."""
Shown = NDArray[np.float64]
"""[H, W, 3], from 0 to 255."""


@dataclass(frozen=True)
class Sample:
    """A file of one mode."""

    content: bytes
    shown: Shown
    within: float = 1.0
    """How far any pixel may be from that: 1 where samples are rounded down, 2 where alpha is too, more where lossy."""


def _samples(channels: int, depth: int, seed: int) -> Samples:
    """Random ones of any value, and flat areas of the smallest, the largest and one between."""
    most = 2**depth - 1
    samples = np.random.default_rng(seed).integers(0, most, (HEIGHT, WIDTH, channels), endpoint=True)
    for column, value in enumerate((0, most, most // 2 + 1)):
        samples[8:24, column * 16 : column * 16 + 16] = value
    return samples


def _on_white(colours: NDArray[np.float64], alpha: NDArray[np.float64] | float = 1.0) -> Shown:
    """Composite colours [H, W, 1 or 3] and alpha, all from 0 to 1."""
    shown: Shown = np.broadcast_to((colours * alpha + (1 - alpha)) * 255, (HEIGHT, WIDTH, 3))
    return shown


def _packed(samples: Samples, depth: int) -> list[bytes]:
    """Rows of samples, each of so many bits, the highest first."""
    bits = (samples.reshape(len(samples), -1, 1) >> np.arange(depth - 1, -1, -1)) & 1
    return [row.tobytes() for row in np.packbits(bits.reshape(len(samples), -1).astype(np.uint8), axis=1)]


def png(samples: Samples, depth: int, colours: int, *, before: bytes = b"", interlaced: bool = False) -> bytes:
    """A PNG of these samples [H, W, channels].

    Args:
        samples: up to 2**depth - 1.
        depth: bits of each.
        colours: the colour type.
        before: chunks before the data.
        interlaced: by Adam7.
    """
    passes = [samples[top::down, left::across] for top, left, down, across in ADAM7] if interlaced else [samples]
    data = b"".join(b"\0" + row for one in passes for row in _packed(one, depth))
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], depth, colours, 0, 0, interlaced)
    parts = png_chunk(b"IHDR", header) + before + png_chunk(b"IDAT", zlib.compress(data)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def _direct_png(colours: int, channels: int, depth: int, interlaced: bool) -> Sample:
    samples = _samples(channels, depth, colours * 17 + depth)
    values = samples / (2**depth - 1)
    alpha = values[..., -1:] if colours in (GREY_ALPHA, RGB_ALPHA) else 1.0
    shown = _on_white(values[..., : 3 if colours in (RGB, RGB_ALPHA) else 1], alpha)
    within = 2 if depth == 16 and colours in (GREY_ALPHA, RGB_ALPHA) else 1
    return Sample(png(samples, depth, colours, interlaced=interlaced), shown, within)


def _keyed_png(colours: int, channels: int, depth: int, key: int, interlaced: bool) -> Sample:
    """One colour of it is transparent (section 11.3.2.1): all of its bits count."""
    samples = _samples(channels, depth, colours * 19 + depth)
    if depth == 16:
        samples[30:40, :20] = key ^ 1  # is not it, and differs in the last bit only
        samples[30:40, 20:40] = key ^ 256
    values = samples / (2**depth - 1)
    alpha = 1.0 - (samples == key).all(axis=2, keepdims=True)
    chunk = png_chunk(b"tRNS", struct.pack(">H", key) * channels)
    return Sample(png(samples, depth, colours, before=chunk, interlaced=interlaced), _on_white(values, alpha))


def _palette_png(depth: int, alphas: int | None, interlaced: bool) -> Sample:
    """A palette, of whose colours the first so many have an alpha (None: the third is transparent and no other)."""
    samples = _samples(1, depth, depth)
    chance = np.random.default_rng(depth)
    palette = chance.integers(0, 256, (2**depth, 3))
    alpha = np.full(2**depth, 255)
    if alphas is None:
        alpha[min(2, 2**depth - 1)] = 0
    else:
        alpha[:alphas] = chance.integers(0, 256, alphas)
    chunks = png_chunk(b"PLTE", palette.astype(np.uint8).tobytes())
    if alphas != 0:
        chunks += png_chunk(b"tRNS", alpha[: alphas or 3].astype(np.uint8).tobytes())
    content = png(samples, depth, PALETTE, before=chunks, interlaced=interlaced)
    return Sample(content, _on_white(palette[samples[..., 0]] / 255, alpha[samples] / 255))


def _animated_png() -> Sample:
    """Shows its first frame."""
    samples = _samples(3, 8, 1)
    frames = [Image.fromarray(np.roll(samples, i, axis=1).astype(np.uint8)) for i in range(3)]
    return Sample(file(frames[0], "PNG", save_all=True, append_images=frames[1:]), _on_white(samples / 255))


def _pngs() -> dict[str, Callable[[], Sample]]:
    found: dict[str, Callable[[], Sample]] = {"png, animated": _animated_png}
    kinds = ((GREY, 1, (1, 2, 4, 8, 16)), (RGB, 3, (8, 16)), (GREY_ALPHA, 2, (8, 16)), (RGB_ALPHA, 4, (8, 16)))
    for interlaced in (False, True):
        ending = ", interlaced" if interlaced else ""
        for colours, channels, depths in kinds:
            for depth in depths:
                name = f"png, colour type {colours}, {depth} bits"
                found[name + ending] = partial(_direct_png, colours, channels, depth, interlaced)
                if colours in (GREY, RGB):
                    for key in (0, 2 ** (depth - 1), 2**depth - 1):
                        found[f"{name}, {key} transparent{ending}"] = partial(
                            _keyed_png, colours, channels, depth, key, interlaced
                        )
        for depth in (1, 2, 4, 8):
            for alphas in (0, 1, 2**depth, None):
                found[f"png, palette of {depth} bits, transparency of {alphas}{ending}"] = partial(
                    _palette_png, depth, alphas, interlaced
                )
    return found


def _bmp(pixels: Samples, bits: int, header: int, palette: Samples, masks: tuple[int, ...], falling: bool) -> bytes:
    """A BMP of palette indices or packed pixels [H, W].

    Args:
        pixels: below 2**bits.
        bits: of a pixel.
        header: its size, which says its version.
        palette: [colours, 3], or empty.
        masks: of red, green, blue and alpha, or none.
        falling: whether the top row comes first.
    """
    if bits <= 8:
        rows = _packed(pixels, bits)
    else:
        rows = [b"".join(int(pixel).to_bytes(bits // 8, "little") for pixel in row) for row in pixels]
    data = b"".join(row.ljust(-(-len(row) // 4) * 4, b"\0") for row in (rows if falling else rows[::-1]))
    height, width = pixels.shape
    if header == 12:
        head = struct.pack("<IHHHH", header, width, height, 1, bits)
        colours = b"".join(bytes([b, g, r]) for r, g, b in palette.tolist())
    else:
        compression = 3 if masks else 0
        top = -height if falling else height
        head = struct.pack("<IiiHHIIiiII", header, width, top, 1, bits, compression, len(data), 0, 0, len(palette), 0)
        packed = b"".join(struct.pack("<I", mask) for mask in masks)
        head = (head + packed[:12]) if header == 40 else (head + packed).ljust(header, b"\0")
        colours = b"".join(bytes([b, g, r, 0]) for r, g, b in palette.tolist())
    start = 14 + len(head) + len(colours)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + head + colours + data


def _palette_bmp(bits: int, header: int, palette: Samples, falling: bool = False) -> Sample:
    pixels = np.random.default_rng(bits).integers(0, len(palette), (HEIGHT, WIDTH))
    return Sample(_bmp(pixels, bits, header, palette, (), falling), _on_white(palette[pixels] / 255))


def _direct_bmp(bits: int, header: int, masks: tuple[int, ...], fields: tuple[int, ...], falling: bool) -> Sample:
    """Pixels whose red, green, blue and alpha are where `fields` says; `masks` are what the file says of it."""
    pixels = np.random.default_rng(bits).integers(0, 2**bits, (HEIGHT, WIDTH))
    channels = [(pixels & mask) / mask for mask in fields]
    alpha = channels[3][..., None] if len(channels) == 4 else 1.0
    shown = _on_white(np.stack(channels[:3], axis=2), alpha)
    return Sample(_bmp(pixels, bits, header, np.empty((0, 3), np.int64), masks, falling), shown)


M555, M565 = (0x7C00, 0x3E0, 0x1F), (0xF800, 0x7E0, 0x1F)
M888, M8888 = (0xFF0000, 0xFF00, 0xFF), (0xFF0000, 0xFF00, 0xFF, 0xFF000000)


def _bmps() -> dict[str, Callable[[], Sample]]:
    found: dict[str, Callable[[], Sample]] = {}
    for bits in (1, 4, 8):
        coloured = np.random.default_rng(bits).integers(0, 256, (2**bits, 3))
        ramps = {
            "coloured": coloured,
            "of two colours": coloured[:2],
            "of black and white": np.array([[0] * 3, [255] * 3]),
            "of white and black": np.array([[255] * 3, [0] * 3]),
            "grey": np.repeat(np.linspace(0, 255, 2**bits).astype(np.int64)[:, None], 3, axis=1),
            "of dark greys": np.repeat(np.arange(2**bits)[:, None], 3, axis=1),
            "of few dark greys": np.repeat(np.arange(min(7, 2**bits))[:, None], 3, axis=1),
        }
        for name, palette in ramps.items():
            for header in (12, 40, 108, 124):
                if header > 12 or len(palette) == 2**bits:  # that of OS/2 does not say how many colours there are
                    for falling in (False, True) if header > 12 else (False,):
                        found[f"bmp, {bits} bits, palette {name}, header {header}{', top first' * falling}"] = partial(
                            _palette_bmp, bits, header, palette, falling
                        )
    direct = (
        (16, (), M555, (40, 108, 124)),
        (16, M555, M555, (40, 56, 108, 124)),
        (16, M565, M565, (40, 56, 108, 124)),
        (24, (), M888, (12, 40, 108, 124)),
        (32, (), M888, (40, 108, 124)),
        (32, (*M888, 0), M888, (40, 52, 56, 108, 124)),
        (32, M8888, M8888, (56, 108, 124)),
        (32, (0xFF, 0xFF00, 0xFF0000, 0xFF000000), (0xFF, 0xFF00, 0xFF0000, 0xFF000000), (56, 108, 124)),
    )
    for bits, masks, fields, headers in direct:
        for header in headers:
            for falling in (False, True) if header > 12 else (False,):
                name = f"bmp, {bits} bits, masks {'/'.join(f'{mask:x}' for mask in masks) or 'none'}, header {header}"
                found[name + ", top first" * falling] = partial(_direct_bmp, bits, header, masks, fields, falling)
    return found


def _gradients(channels: int) -> NDArray[np.uint8]:
    """[H, W, channels], smooth, which lossy kinds keep."""
    x, y = np.linspace(0, 1, WIDTH)[None, :], np.linspace(0, 1, HEIGHT)[:, None]
    ways = (x + 0 * y, y + 0 * x, (x + y) / 2, 1 - (x + y) / 2)
    return np.rint(np.stack(ways[:channels], axis=2) * 255).astype(np.uint8)


def _jpeg(mode: str, **options: object) -> Sample:
    values = _gradients(len(Image.new(mode, (1, 1)).getbands()))
    content = file(Image.fromarray(values.squeeze(), mode), "JPEG", quality=100, **options)
    if mode == "CMYK":
        ink = values / 255
        return Sample(content, _on_white((1 - ink[..., :3]) * (1 - ink[..., 3:])), within=5)
    return Sample(content, _on_white(values / 255), within=5)


def _jpeg_ycck(**options: object) -> Sample:
    """Adobe's: cyan, magenta and yellow as YCbCr, and black the other way round (its Technical Note 5116)."""
    ink = _gradients(4)
    planes = np.asarray(Image.fromarray(ink[..., :3]).convert("YCbCr"))
    stored = np.dstack([255 - planes, ink[..., 3:]])  # Pillow turns all four round as it writes them
    content = file(Image.fromarray(stored, "CMYK"), "JPEG", quality=100, **options)
    transform = content.index(b"Adobe") + 11
    content = content[:transform] + b"\2" + content[transform + 1 :]
    share = ink / 255
    return Sample(content, _on_white((1 - share[..., :3]) * (1 - share[..., 3:])), within=6)


def _jpegs() -> dict[str, Callable[[], Sample]]:
    found: dict[str, Callable[[], Sample]] = {}
    for progressive in (False, True):
        ending = ", progressive" * progressive
        for name, mode, options in (
            ("grey", "L", {}),
            ("YCbCr 4:4:4", "RGB", {"subsampling": 0}),
            ("YCbCr 4:2:0", "RGB", {"subsampling": 2}),
            ("RGB", "RGB", {"keep_rgb": True}),
            ("CMYK", "CMYK", {}),
        ):
            found[f"jpeg, {name}{ending}"] = partial(_jpeg, mode, progressive=progressive, **options)
        found[f"jpeg, YCCK{ending}"] = partial(_jpeg_ycck, progressive=progressive)
    return found


def _gif(grey: bool, key: int | None, interlaced: bool, frames: int = 1) -> Sample:
    indices = np.random.default_rng(7).integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)
    palette = np.random.default_rng(8).integers(0, 256, (256, 3))
    if grey:
        palette = np.repeat(np.arange(256)[:, None], 3, axis=1)
    image = Image.fromarray(indices, "P")
    image.putpalette(palette.astype(np.uint8).tobytes())
    options = {} if key is None else {"transparency": key}
    others = [Image.fromarray(np.roll(indices, i), "P") for i in range(1, frames)]
    content = file(image, "GIF", interlace=interlaced, save_all=frames > 1, append_images=others, **options)
    alpha = 1.0 if key is None else 1.0 - (indices[..., None] == key)
    return Sample(content, _on_white(palette[indices] / 255, alpha))


def _gif_of_a_part(key: int | None) -> Sample:
    """Its frame leaves out a border of the canvas, which shows what is behind it."""
    sample = _gif(False, key, interlaced=False)
    shown = np.full((HEIGHT, WIDTH, 3), 255.0)
    shown[8:-8, 8:-8] = sample.shown[8:-8, 8:-8]
    image = Image.open(io.BytesIO(sample.content)).crop((8, 8, WIDTH - 8, HEIGHT - 8))
    content = bytearray(file(image, "GIF", **({} if key is None else {"transparency": key})))
    content[6:10] = struct.pack("<HH", WIDTH, HEIGHT)
    frame = content.index(b"," + struct.pack("<HHHH", 0, 0, *image.size))
    content[frame + 1 : frame + 5] = struct.pack("<HH", 8, 8)
    return Sample(bytes(content), shown)


def _gifs() -> dict[str, Callable[[], Sample]]:
    found: dict[str, Callable[[], Sample]] = {
        "gif of a part of its canvas": partial(_gif_of_a_part, None),
        "gif of a part of its canvas, 9 transparent": partial(_gif_of_a_part, 9),
    }
    for grey in (False, True):
        for key in (None, 0, 9, 255):
            for interlaced in (False, True):
                for frames in (1, 3):
                    name = f"gif, {'grey' if grey else 'coloured'}, {key} transparent, {frames} frames"
                    found[name + ", interlaced" * interlaced] = partial(_gif, grey, key, interlaced, frames)
    return found


def _webp(mode: str, within: float, frames: int = 1, **options: object) -> Sample:
    values = _gradients(len(mode))
    image = Image.fromarray(values, mode)
    others = [scene(WIDTH, HEIGHT, i).convert(mode) for i in range(1, frames)]
    content = file(image, "WEBP", quality=100, save_all=frames > 1, append_images=others, **options)
    alpha = values[..., 3:] / 255 if mode == "RGBA" else 1.0
    return Sample(content, _on_white(values[..., :3] / 255, alpha), within)


def _webp_of_a_part(alpha: bool) -> Sample:
    """Its frame leaves out a border of the canvas, which shows what is behind it."""
    sample = _webp("RGB", 1, lossless=True)
    shown = np.full((HEIGHT, WIDTH, 3), 255.0)
    shown[8:-8, 8:-8] = sample.shown[8:-8, 8:-8]
    part = Image.open(io.BytesIO(sample.content)).crop((8, 8, WIDTH - 8, HEIGHT - 8))
    inner = file(part, "WEBP", lossless=True)[12:]
    sides = ((side - 1).to_bytes(3, "little") for side in (WIDTH, HEIGHT, *part.size))
    canvas = bytes([0x12 if alpha else 2, 0, 0, 0]) + next(sides) + next(sides)
    frame = (4).to_bytes(3, "little") * 2 + next(sides) + next(sides) + bytes(4) + inner
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    body += b"ANMF" + struct.pack("<I", len(frame)) + frame
    return Sample(b"RIFF" + struct.pack("<I", len(body)) + body, shown)


def _webps() -> dict[str, Callable[[], Sample]]:
    return {
        "webp, lossy": partial(_webp, "RGB", 6),
        "webp, lossless": partial(_webp, "RGB", 1, lossless=True),
        "webp, lossy with alpha": partial(_webp, "RGBA", 6),
        "webp, lossless with alpha": partial(_webp, "RGBA", 1, lossless=True),
        "webp, animated": partial(_webp, "RGB", 1, frames=3, lossless=True),
        "webp, animated with alpha": partial(_webp, "RGBA", 1, frames=3, lossless=True),
        "webp of a part of its canvas": partial(_webp_of_a_part, alpha=False),
        "webp of a part of its canvas, with alpha": partial(_webp_of_a_part, alpha=True),
    }


SAMPLES: Mapping[str, Callable[[], Sample]] = {**_pngs(), **_bmps(), **_jpegs(), **_gifs(), **_webps()}
"""Every mode, depth and kind of transparency of what is read."""
