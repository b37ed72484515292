"""Image files of every kind, made here, and what they should look like to a model."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

SIZES = ((64, 64), (300, 200), (97, 203), (640, 427), (40, 31))
ORIENTATION = 0x0112


def scene(width: int, height: int, seed: int) -> Image.Image:
    """Gradients, shapes and noise in colours of their own: RGB."""
    chance = np.random.default_rng(seed)
    x, y = np.linspace(0, 1, width)[None, :, None], np.linspace(0, 1, height)[:, None, None]
    start, across, down = chance.uniform(0, 255, (3, 3))
    blend = start + (across - start) * x * 0.6 + (down - start) * y * 0.4 + chance.normal(0, 8, (height, width, 3))
    image = Image.fromarray(np.clip(blend, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        left, top = chance.integers(0, width), chance.integers(0, height)
        box = (int(left), int(top), int(left + chance.integers(2, width)), int(top + chance.integers(2, height)))
        shape = draw.ellipse if chance.random() < 0.5 else draw.rectangle
        shape(box, fill=tuple(chance.integers(0, 256, 3).tolist()))
    return image


def with_alpha(image: Image.Image) -> Image.Image:
    """The same, fading out to the right."""
    alpha = np.tile(np.linspace(255, 0, image.width).astype(np.uint8), (image.height, 1))
    faded = image.convert("RGBA")
    faded.putalpha(Image.fromarray(alpha))
    return faded


def file(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image file of a kind that Pillow names."""
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


def turned(orientation: int) -> dict[str, Image.Exif]:
    """The option to save an image with that says how it lies."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return {"exif": exif}


def _kinds(width: int, height: int, seed: int) -> Mapping[str, bytes]:
    rgb = scene(width, height, seed)
    grey = rgb.convert("L")
    palette = rgb.quantize(64)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    frames = [scene(width, height, seed + i) for i in range(3)]
    return {
        "png": file(rgb, "PNG"),
        "png grey": file(grey, "PNG"),
        "png palette": file(palette, "PNG"),
        "png 16 bits": file(deep, "PNG"),
        "png 1 bit": file(grey.convert("1"), "PNG"),
        "png alpha": file(with_alpha(rgb), "PNG"),
        "png grey alpha": file(with_alpha(rgb).convert("LA"), "PNG"),
        "png palette, a colour transparent": file(palette, "PNG", transparency=3),
        "png, a colour transparent": file(rgb, "PNG", transparency=rgb.getpixel((3, 3))),
        "jpeg": file(rgb, "JPEG", quality=90),
        "jpeg grey": file(grey, "JPEG"),
        "jpeg cmyk": file(rgb.convert("CMYK"), "JPEG"),
        "jpeg progressive": file(rgb, "JPEG", progressive=True),
        **{f"jpeg orientation {n}": file(rgb, "JPEG", **turned(n)) for n in range(2, 9)},
        "jpeg orientation 99": file(rgb, "JPEG", **turned(99)),
        "webp": file(rgb, "WEBP"),
        "webp lossless alpha": file(with_alpha(rgb), "WEBP", lossless=True),
        "webp animated": file(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "webp orientation 6": file(rgb, "WEBP", **turned(6)),
        "gif animated": file(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "gif transparent": file(palette, "GIF", transparency=3),
        "bmp": file(rgb, "BMP"),
        "bmp palette": file(palette, "BMP"),
        "png orientation 5": file(rgb, "PNG", **turned(5)),
    }


VARIED: Mapping[str, bytes] = {
    f"{name}, {width} x {height}": content
    for seed, (width, height) in enumerate(SIZES)
    for name, content in _kinds(width, height, seed).items()
}
"""Files by what they are: every kind, in several sizes."""


def seen(content: bytes) -> Image.Image:
    """What a person sees: the first frame, upright, on white, as Pillow itself makes it RGB."""
    image: Image.Image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    if image.mode == "I;16":  # of which it would keep what fits in 8 bits
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def processed(content: bytes, processor: Any) -> NDArray[np.uint8]:
    """The pixels [3, H, W] that an image processor of transformers brings a file to."""
    ready = processor(seen(content), do_rescale=False, do_normalize=False, return_tensors="np")
    pixels: NDArray[np.uint8] = np.rint(ready["pixel_values"][0]).astype(np.uint8)
    return pixels
