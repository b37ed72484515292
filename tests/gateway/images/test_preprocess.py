"""Against Pillow and the image processors of transformers."""

import io
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Resampling
from transformers import CLIPImageProcessor, SiglipImageProcessor, ViTImageProcessor

from gateway.errors import InvalidRequest
from gateway.images import preprocess as pixels_
from gateway.images.preparation import Preparation
from gateway.images.preprocess import BYTES_PER_PIXEL
from loadtest.tools.hostile import (
    arithmetic_jpeg,
    jpeg_of_many_scans,
    jpeg_of_separate_components,
    png,
    png_chunk,
    run_length_bmp,
)
from loadtest.tools.pictures import VARIED, file, processed, scene, turned, with_alpha
from tests.samples import SAMPLES

MOST = 40_000_000 * BYTES_PER_PIXEL
Pixels = NDArray[np.uint8]
WHOLE = Preparation(48, 64, (48, 64), Resampling.BILINEAR)
PROCESSORS = {
    "distorted, bilinear": (ViTImageProcessor(size={"height": 48, "width": 64}, resample=Resampling.BILINEAR), WHOLE),
    "distorted, lanczos": (
        SiglipImageProcessor(size={"height": 50, "width": 50}, resample=Resampling.LANCZOS),
        Preparation(50, 50, (50, 50), Resampling.LANCZOS),
    ),
    "cropped, bicubic": (
        CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 48, "width": 48}),
        Preparation(48, 48, 56, Resampling.BICUBIC),
    ),
    "cropped to odd sides": (
        CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 51, "width": 33}),
        Preparation(51, 33, 56, Resampling.BICUBIC),
    ),
    "distorted and cropped": (
        CLIPImageProcessor(
            size={"height": 70, "width": 60},
            crop_size={"height": 51, "width": 48},
            resample=Resampling.BILINEAR,
        ),
        Preparation(51, 48, (70, 60), Resampling.BILINEAR),
    ),
}


def read(content: bytes, preparation: Preparation = WHOLE, most: int = MOST) -> Pixels:
    reserved: list[int] = []
    pixels = np.frombuffer(pixels_.read(content, preparation, "image", most, reserved.append), np.uint8)
    assert [size for size in reserved if 0 < size <= most] == reserved != []
    return pixels.reshape(3, preparation.height, preparation.width)


def refusal(content: bytes, most: int = MOST) -> str:
    def reserve(_: int) -> None:
        """However much."""

    with pytest.raises(InvalidRequest) as caught:
        pixels_.read(content, WHOLE, "input[3].image", most, reserve)
    assert caught.value.param == "input[3].image"
    return caught.value.message


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_the_image_processor(name: str) -> None:
    processor, preparation = PROCESSORS[name]
    assert len(VARIED) >= 50
    for kind, content in VARIED.items():
        pixels, expected = read(content, preparation), processed(content, processor)
        assert pixels.shape == expected.shape
        within_one = np.abs(pixels.astype(int) - expected).flatten() <= 1
        assert within_one.mean() >= 0.999, kind


@pytest.mark.parametrize("name", SAMPLES)
def test_every_mode_is_what_its_samples_show_on_white(name: str) -> None:
    sample = SAMPLES[name]()
    pixels = read(sample.content).transpose(1, 2, 0)
    assert np.abs(pixels - sample.shown).max() <= sample.within


def test_thin_image_is_not_blown_up() -> None:
    """The whole of it, its shorter side resized to 56 pixels, would be 56 x 2.8 million."""
    thin = file(Image.new("RGB", (2, 100_000), "red"), "PNG")
    pixels = read(thin, Preparation(48, 48, 56, Resampling.BICUBIC))
    assert pixels[:, 24, 24].tolist() == [255, 0, 0]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_none() -> None:
    plain = file(scene(60, 40, 0), "JPEG", quality=95)
    broken = file(scene(60, 40, 0), "JPEG", quality=95, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert np.array_equal(read(broken), read(plain))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a PNG, JPEG, WebP, GIF or BMP image"),
        (b"just some text", "is not a PNG, JPEG, WebP, GIF or BMP image"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is not a PNG, JPEG, WebP, GIF or BMP image"),
        (file(scene(9, 9, 0), "TIFF"), "is not a PNG, JPEG, WebP, GIF or BMP image"),
        (file(scene(9, 9, 0), "ICO"), "is not a PNG, JPEG, WebP, GIF or BMP image"),
        (b"GIF89a/*" + b"\0" * 9 + b"*/=alert(1)", "is not a PNG, JPEG, WebP, GIF or BMP image"),
        (file(scene(60, 40, 0), "PNG")[:-400], "is a corrupt PNG image"),
        (file(scene(60, 40, 0), "JPEG")[:-200], "is a corrupt JPEG image"),
        (file(scene(60, 40, 0), "WEBP")[:-100], "is not a PNG, JPEG, WebP, GIF or BMP image"),
        (file(scene(60, 40, 0), "GIF")[:-200], "is a corrupt GIF image"),
        (file(scene(60, 40, 0), "BMP")[:-100], "is a corrupt BMP image"),
        (file(Image.new("RGB", (1, 1)), "PNG"), "has 1 x 1 pixels; the minimum is 2 x 2"),
        (file(Image.new("RGB", (1, 500)), "PNG"), "has 1 x 500 pixels; the minimum is 2 x 2"),
        (file(Image.new("RGB", (500, 1)), "GIF"), "has 500 x 1 pixels; the minimum is 2 x 2"),
    ],
)
def test_other_files_are_refused(content: bytes, message: str) -> None:
    assert refusal(content).startswith(f"input[3].image {message}")


@pytest.mark.parametrize("depth", [4, 8])
def test_compressed_bitmap_is_refused_before_it_is_expanded(depth: int) -> None:
    expected = "input[3].image is a compressed BMP; send an uncompressed BMP or a PNG"
    assert refusal(run_length_bmp(1_000_000, 40, depth)) == expected


@pytest.mark.parametrize(("more", "refused"), [(49, False), (50, True)])
def test_jpeg_may_have_fifty_scans(more: int, refused: bool) -> None:
    content = jpeg_of_many_scans(64, 48, more)
    if refused:
        assert refusal(content) == "input[3].image is a JPEG with more than 50 scans"
    else:
        assert read(content).shape == (3, 48, 64)


@pytest.mark.parametrize("progressive", [False, True])
def test_arithmetic_coding_is_refused_before_it_is_decoded(progressive: bool) -> None:
    expected = "input[3].image is a JPEG with arithmetic coding; use Huffman coding"
    assert refusal(arithmetic_jpeg(4896, 4896, progressive=progressive)) == expected


def archive(size: int) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as one:
        one.writestr("payload.txt", b"x" * size)
    return packed.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
@pytest.mark.parametrize(
    "payload", [archive(10), archive(100_000), b"%PDF-1.7 ...", b"<?php system('id');", b"<SCRIPT>alert(1)</SCRIPT>"]
)
def test_file_of_two_kinds_is_refused(kind: str, payload: bytes) -> None:
    image = file(scene(60, 40, 0), kind)
    assert read(image).shape == (3, 48, 64)
    message = refusal(image + payload)
    assert "another type of file" in message or "is not a PNG" in message


@pytest.mark.parametrize(
    ("width", "height"), [(2**31 - 1, 2**31 - 1), (100_000, 100_000), (40_000_001, 2), (6400, 6251)]
)
def test_declared_pixels_are_counted_before_anything_is_decoded(width: int, height: int) -> None:
    assert refusal(png(width, height)) == (
        f"input[3].image has {width} x {height} pixels; the limit for this type of image is 40000000 pixels"
    )


def test_zero_pixels_are_refused() -> None:
    assert "input[3].image" in refusal(png(0, 10))


def test_kinds_that_take_more_memory_may_have_fewer_pixels() -> None:
    most = 10_000 * BYTES_PER_PIXEL
    for image, pixels in (
        (file(scene(110, 100, 0), "PNG"), 10_000),
        (file(scene(110, 100, 0), "JPEG", progressive=True), 6000),
        (jpeg_of_separate_components(110, 100), 6000),
        (file(scene(110, 100, 0).convert("CMYK"), "JPEG"), 6000),
        (file(scene(110, 100, 0), "WEBP"), 3000),
        (file(scene(110, 100, 0), "WEBP", lossless=True), 3000),
        (file(with_alpha(scene(110, 100, 0)), "WEBP"), 3000),
    ):
        expected = f"input[3].image has 110 x 100 pixels; the limit for this type of image is {pixels} pixels"
        assert refusal(image, most) == expected
    assert read(file(scene(100, 100, 0), "PNG"), most=most).shape == (3, 48, 64)


LARGEST = {
    "jpeg": lambda: file(Image.new("RGB", (4000, 2499), "teal"), "JPEG"),
    "jpeg turned": lambda: file(Image.new("RGB", (4000, 2499), "teal"), "JPEG", **turned(6)),
    "jpeg progressive": lambda: file(Image.new("RGB", (2440, 2440), "teal"), "JPEG", progressive=True),
    "jpeg cmyk": lambda: file(Image.new("CMYK", (2440, 2440), "teal"), "JPEG"),
    "png": lambda: file(Image.new("RGB", (4000, 2499), "teal"), "PNG"),
    "png alpha": lambda: file(with_alpha(Image.new("RGB", (4000, 2499), "teal")), "PNG"),
    "png, a colour transparent, turned": lambda: file(
        Image.new("RGB", (4000, 2499)), "PNG", transparency=(0, 0, 0), **turned(6)
    ),
    "png palette, a colour transparent, turned": lambda: file(
        Image.new("P", (4000, 2499)), "PNG", transparency=0, **turned(6)
    ),
    "png grey, a colour transparent, turned": lambda: file(
        Image.new("L", (4000, 2499)), "PNG", transparency=0, **turned(6)
    ),
    "png 16 bits, a colour transparent, turned": lambda: file(
        Image.new("I;16", (4000, 2499)), "PNG", transparency=0, **turned(6)
    ),
    "png 48 bits, a colour transparent": lambda: png(
        2440, 2440, bytes(2440 * (2440 * 6 + 1)), bits=16, before=png_chunk(b"tRNS", bytes(6))
    ),
    "png grey alpha": lambda: file(Image.new("LA", (2440, 2440), "teal"), "PNG"),
    "gif": lambda: file(Image.new("P", (4000, 2499)), "GIF"),
    "webp": lambda: file(Image.new("RGB", (1730, 1730), "teal"), "WEBP"),
    "webp lossless alpha": lambda: file(with_alpha(Image.new("RGB", (1730, 1730), "teal")), "WEBP", lossless=True),
}
MEASURE = """
import resource, sys
from PIL.Image import Resampling
from gateway.images import preprocess
small, content = (bytes.fromhex(line) for line in sys.stdin)
whole = preprocess.Preparation(48, 64, (48, 64), Resampling.BILINEAR)
most = 10**7 * preprocess.BYTES_PER_PIXEL
preprocess.read(small, whole, "image", most, print)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
preprocess.read(content, whole, "image", most, print)
print((peak() - before) / 1024)
"""


@pytest.mark.parametrize("kind", LARGEST)
def test_largest_image_of_each_kind_stays_within_memory(kind: str) -> None:
    """Ten million plain pixels, a quarter of what is allowed by default, may take 57 MiB, and a little for all else."""
    given = "\n".join(content.hex() for content in (file(scene(60, 40, 0), "WEBP"), LARGEST[kind]()))
    done = subprocess.run([sys.executable, "-c", MEASURE], input=given, capture_output=True, check=True, text=True)
    assert float(done.stdout.split()[-1]) < 70
