"""Composites a decoded image on a white background and splits it into 8-bit channels."""

from collections.abc import Iterator

from PIL import Image, ImageChops

STRIP_PIXELS = 2**20
"""Convert this many pixels at a time, in place: a copy of the whole image would double its memory."""
SAMPLES_16_BIT = range(2**16)

Box = tuple[int, int, int, int]
"""Left, top, right and bottom."""


def channels(image: Image.Image, low: Image.Image | None = None) -> Iterator[Image.Image]:
    """The red, green and blue channels of an image on white, or the single channel of a greyscale image.

    Args:
        image: is modified.
        low: the low bytes of its samples (`gateway.images.formats.low_bytes`).
    """
    if image.mode == "I;16":
        yield _grey_16_bit(image)
        return
    if image.mode in ("1", "L", "P"):
        image = image.convert("L") if image.mode == "1" else image
        for table in _grey(image) if image.mode == "L" else _palette(image):
            yield image.point(table, "L")  # needs memory for one more channel, not three or four
        return
    if image.has_transparency_data:
        image = image if image.mode in ("RGB", "RGBA") else image.convert("RGBA")
        _composite(image, low)
    elif image.mode != "RGB":
        image = image.convert("RGB")
    for channel in "RGB":
        yield image.getchannel(channel)


def _grey(image: Image.Image) -> list[list[int]]:
    """The lookup table for the channel of a greyscale image."""
    key = image.info.get("transparency")
    return [[255 if value == key else value for value in range(256)]]


def _palette(image: Image.Image) -> list[list[int]]:
    """The lookup tables for the red, green and blue channels of a palette image."""
    image.apply_transparency()
    colours = image.getpalette("RGBA") or []
    tables = ([_on_white(*pair) for pair in zip(colours[i::4], colours[3::4], strict=True)] for i in range(3))
    return [table + [0] * (256 - len(table)) for table in tables]


def _on_white(value: int, alpha: int) -> int:
    return 255 - round((255 - value) * alpha / 255)


def _grey_16_bit(image: Image.Image) -> Image.Image:
    key = image.info.get("transparency")
    grey = Image.new("L", image.size)
    table = [255 if value == key else round(value / 257) for value in SAMPLES_16_BIT]
    for box in _strips(image):
        grey.paste(image.crop(box).convert("I").point(table, "L"), box)
    return grey


def _composite(image: Image.Image, low: Image.Image | None) -> None:
    """Composite an RGBA image, or an RGB image with a transparent colour, on white, in place."""
    for box in _strips(image):
        strip = image.crop(box).convert("RGBA")
        if low is not None:
            opaque = ImageChops.lighter(strip.getchannel("A"), low.crop(box).convert("RGBA").getchannel("A"))
            strip.putalpha(opaque)
        white = Image.new("RGBA", strip.size, "white")
        white.alpha_composite(strip)
        image.paste(white, box)


def _strips(image: Image.Image) -> Iterator[Box]:
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


def whiten_outside(channel: Image.Image, covered: Box) -> None:
    """Make the part of the canvas white that the image's frame does not cover."""
    left, top, right, bottom = covered
    width, height = channel.size
    for box in ((0, 0, width, top), (0, bottom, width, height), (0, top, left, bottom), (right, top, width, bottom)):
        if box[0] < box[2] and box[1] < box[3]:
            channel.paste(255, box)
