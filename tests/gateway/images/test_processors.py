"""Against the functions of transformers that compute sizes, for images of thousands of sizes."""

import random
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL.Image import Resampling
from transformers import Idefics3Processor
from transformers.models.gemma4.image_processing_pil_gemma4 import get_aspect_ratio_preserving_size
from transformers.models.idefics3 import image_processing_pil_idefics3 as idefics3
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

from gateway.images import processors
from gateway.images.preparation import Patches, Preparation
from gateway.images.processors import AnyProcessor, Budget, Fixed, Layout, NaFlex, Smart, Tiles, read

SMART = Smart(patch=16, merge=2, min_pixels=4096, max_pixels=1_310_720)
FIXED = Fixed(patch=14, height=448, width=224)
BUDGET = Budget(patch=16, merge=3, max_patches=2520)
NAFLEX = NaFlex(patch=16, max_patches=256, resample="bilinear")
TILES = Tiles(
    patch=16,
    merge=4,
    resample="lanczos",
    tile=512,
    longest_edge=2048,
    tile_text="<around><row_{row}_col_{column}>{patches}",
    row_end="\n",
    whole_text="\n<around><whole>{patches}<around>",
    single_text="<around><whole>{patches}<around>",
)


def sizes(count: int, longest: int = 9000, ratio: float = 200) -> list[tuple[int, int]]:
    """Heights and widths of every magnitude and shape."""
    chance = random.Random(24)
    found = [(2, 2), (2, 3), (31, 33), (48, 48), (2, 400), (400, 2), (4000, 20), (45, 9000), (8191, 8192)]
    while len(found) < count:
        height, width = (round(2 * (longest / 2) ** chance.random()) for _ in range(2))
        if max(height, width) / min(height, width) <= ratio:
            found.append((height, width))
    return found


def test_smart_sizes_are_those_of_qwen() -> None:
    for processor in (
        SMART,
        Smart(patch=14, merge=2, min_pixels=3136, max_pixels=12_845_056),
        Smart(patch=14, merge=2, min_pixels=3136, max_pixels=3136),
        Smart(patch=4, merge=2, min_pixels=64, max_pixels=4096),
    ):
        for height, width in sizes(1000):
            expected = smart_resize(height, width, processor.block, processor.min_pixels, processor.max_pixels)
            layout = processor.layout(height, width)
            assert layout.sizes == (expected,)
            assert layout.grids == ((expected[0] // processor.patch, expected[1] // processor.patch),)
            assert layout.patches <= processor.max_patches


@pytest.mark.parametrize(("patches", "merge"), [(2520, 3), (630, 3), (256, 2), (9, 3)])
def test_budget_sizes_are_those_of_gemma(patches: int, merge: int) -> None:
    processor = Budget(patch=16, merge=merge, max_patches=patches)
    compared = 0
    for height, width in sizes(1000, ratio=5000):
        try:
            expected = get_aspect_ratio_preserving_size(height, width, 16, patches, merge)
        except ValueError:  # it rounds both sides to 0, which takes a budget of about one block
            assert patches < 2 * merge**2
            continue
        compared += 1
        layout = processor.layout(height, width)
        assert layout.sizes == (expected,)
        assert layout.patches <= processor.max_patches
    assert compared > 100


@pytest.mark.parametrize("patches", [256, 1024, 1])
def test_naflex_sizes_are_those_of_siglip(patches: int) -> None:
    processor = NaFlex(patch=16, max_patches=patches)
    for height, width in sizes(400, ratio=5000):
        expected = get_image_size_for_max_num_patches(height, width, 16, patches)
        layout = processor.layout(height, width)
        assert layout.sizes == (expected,)
        assert layout.patches <= patches


@pytest.mark.parametrize(("longest", "tile"), [(2048, 512), (1456, 364), (512, 512), (300, 512)])
def test_tiles_are_those_of_idefics(longest: int, tile: int) -> None:
    processor = msgspec.structs.replace(
        TILES, longest_edge=longest, tile=tile, patch=14 if tile == 364 else 16, merge=2
    )
    theirs = idefics3.Idefics3ImageProcessorPil(size={"longest_edge": longest}, max_image_size={"longest_edge": tile})
    for height, width in sizes(1000, ratio=5000):
        layout = processor.layout(height, width)
        count, rows, columns = theirs.get_number_of_image_patches(height, width)
        assert (layout.tiles, len(layout.grids)) == ((rows, columns), max(1, count))
        assert layout.sizes[0] == idefics3.get_resize_output_image_size(np.empty((0, height, width)), longest)
        assert layout.patches <= processor.max_patches
        assert set(layout.grids) == {(tile // processor.patch,) * 2}


@pytest.mark.parametrize(
    "processor", [SMART, FIXED, BUDGET, NAFLEX, TILES, msgspec.structs.replace(TILES, split=False)]
)
def test_images_have_at_least_and_at_most_so_many_patches(processor: AnyProcessor) -> None:
    for height, width in sizes(400):
        patches = processor.layout(height, width).patches
        assert processor.min_patches <= patches <= processor.max_patches
        assert patches % processor.merge**2 == 0


def test_fixed_size_is_that_of_the_model() -> None:
    assert FIXED.layout(3, 4000) == Layout(((448, 224),), ((32, 16),))
    assert FIXED.max_patches == 512


@pytest.mark.parametrize(("height", "width"), [(2, 402), (40_000, 199)])
def test_qwen_refuses_thin_images(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"^has {width} x {height} pixels; the longer side may be at most 200 times"):
        SMART.layout(height, width)
    assert BUDGET.layout(height, width).patches <= 2520
    assert NAFLEX.layout(height, width).patches <= 256


def test_merged_patches_are_counted() -> None:
    assert SMART.merged(SMART.layout(1000, 800).grids) == 62 * 50 // 4
    assert TILES.merged(TILES.layout(1000, 1000).grids) == 17 * 64
    assert NAFLEX.merged(((3, 5),)) == 15


def test_limits_of_a_request_are_within_those_of_the_model() -> None:
    assert SMART.limited(None, None) == SMART
    assert SMART.limited(8192, None) == msgspec.structs.replace(SMART, min_pixels=8192)
    assert SMART.limited(None, 8192) == msgspec.structs.replace(SMART, max_pixels=8192)
    assert SMART.limited(8192, 8192).layout(1000, 1000).grids == ((4, 4),)
    for given, message in (
        ((4095, None), "min_pixels must be from 4096 to 1310720, not 4095"),
        ((None, 1_310_721), "max_pixels must be from 4096 to 1310720, not 1310721"),
        ((None, -1), "max_pixels must be from 4096 to 1310720, not -1"),
        ((9000, 8000), r"min_pixels \(9000\) must not exceed max_pixels \(8000\)"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            SMART.limited(*given)


@pytest.mark.parametrize("processor", [FIXED, BUDGET, NAFLEX, TILES])
def test_other_processors_have_no_limits_in_pixels(processor: AnyProcessor) -> None:
    assert processor.limited(None, None) == processor
    with pytest.raises(ValueError, match="is not supported by this model"):
        processor.limited(None, 100_000)


def test_text_of_an_image_has_a_placeholder_for_each_merged_patch() -> None:
    assert SMART.text("<start>{patches}<end>", "<p>", SMART.layout(64, 96)) == "<start>" + "<p>" * 6 + "<end>"
    patches = Patches(np.zeros((4, 768), np.uint8), ((2, 2),))
    assert SMART.text("{patches}\n", "<p>", patches) == "<p>\n"


@pytest.mark.parametrize(("height", "width"), [(1000, 700), (700, 1000), (600, 2000), (30, 30)])
@pytest.mark.parametrize("longest", [2048, 512])
def test_text_of_tiles_is_that_of_idefics(height: int, width: int, longest: int) -> None:
    class Its(Idefics3Processor):
        def __init__(self) -> None:
            self.fake_image_token, self.global_image_tag, self.image_token = "<around>", "<whole>", "<p>"
            self.image_seq_len = 64

    layout = msgspec.structs.replace(TILES, longest_edge=longest).layout(height, width)
    rows, columns = layout.tiles
    expected = Its().replace_image_token({"rows": [[rows]], "cols": [[columns]]}, 0)
    assert TILES.text("User:{patches}!", "<p>", layout) == f"User:{expected}!"


def test_image_may_stay_whole() -> None:
    processor = msgspec.structs.replace(TILES, split=False)
    assert processor.layout(1000, 700) == Layout(((2048, 1434), (512, 512)), ((32, 32),))
    assert processor.max_patches == 1024


VALID: dict[str, dict[str, Any]] = {
    "smart": {"patch": 16, "merge": 2, "min_pixels": 4096, "max_pixels": 1_310_720, "resample": "bicubic"},
    "fixed": {"patch": 14, "height": 448, "width": 224},
    "budget": {"patch": 16, "merge": 3, "max_patches": 2520},
    "naflex": {"patch": 16, "merge": 1, "max_patches": 256, "resample": "bilinear"},
    "tiles": {name: getattr(TILES, name) for name in TILES.__struct_fields__},
}


@pytest.mark.parametrize(
    ("kind", "processor"),
    [("smart", SMART), ("fixed", FIXED), ("budget", BUDGET), ("naflex", NAFLEX), ("tiles", TILES)],
)
def test_every_kind_is_read(kind: str, processor: AnyProcessor) -> None:
    text = msgspec.json.encode({"kind": kind} | VALID[kind]).decode()
    assert read(text) == processor
    assert read(msgspec.json.encode(processor).decode()) == processor
    assert processor.filter == Resampling[processor.resample.upper()]
    assert processors.max_bytes(processor) == processor.max_patches * 3 * processor.patch**2


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("smart", {"patch": 0}, "Expected `int` >= 1"),
        ("smart", {"merge": 17}, "Expected `int` <= 16"),
        ("smart", {"max_pixels": 2**26 + 1}, "Expected `int` <= "),
        ("smart", {"min_pixels": 2_000_000}, r"min_pixels \(2000000\) exceeds max_pixels \(1310720\)"),
        ("smart", {"resample": "cubist"}, "Invalid enum value 'cubist'"),
        ("smart", {"max_patches": 3}, "unknown field `max_patches`"),
        ("smart", {"max_pixels": None}, "Expected `int`, got `null`"),
        ("fixed", {"height": 450}, r"height and width must be multiples of patch \* merge \(14\)"),
        ("budget", {"max_patches": 8}, "max_patches must be at least one block of 3 x 3"),
        ("naflex", {"max_patches": 2**16 + 1}, "Expected `int` <= 65536"),
        ("tiles", {"tile": 500}, r"tile must be a multiple of patch \* merge \(64\)"),
        ("tiles", {"longest_edge": 5000}, "Expected `int` <= 4096"),
    ],
)
def test_parameter_is_validated(kind: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(msgspec.json.encode({"kind": kind} | VALID[kind] | change).decode())


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"kind": "any"}', '{"kind": "smart"}'])
def test_other_values_are_refused(text: str) -> None:
    with pytest.raises(msgspec.MsgspecError):
        read(text)


def test_black_image_is_the_smallest() -> None:
    pixels = processors.black(Preparation(8, 9, (8, 9), Resampling.BILINEAR))
    assert isinstance(pixels, np.ndarray)
    assert pixels.shape == (3, 8, 9)
    patches = processors.black(SMART)
    assert isinstance(patches, Patches)
    assert (patches.pixels.shape, patches.grids) == ((4, 768), ((2, 2),))
