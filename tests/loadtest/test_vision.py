"""The counts of weights, and the tables out of made results."""

from pathlib import Path

import pytest

from loadtest.experiments.gpu.results import Results as GpuResults
from loadtest.reports import gpu, vision
from loadtest.tools.vision_models import PUBLISHED, whole
from loadtest.tools.vision_results import LIBRARY, PACKED, Results, Served, Speed, Vision, Weights

SMALL, LARGE = Weights(232_000_000, 1e6, 2e6), Weights(2_127_532_032, 10e6, 20e6)
HERE = Vision(
    "Qwen3-VL 2B",
    (2, 4),
    600,
    SMALL,
    [
        Speed("photos", PACKED, 8, 8, 4000, 1600, [2.0, 4.0, 3.0], 0.0),
        Speed("photos", LIBRARY, 8, 8, 4000, 1600, [4.0, 10.0, 6.0], 0.0),
        Speed("texts", PACKED, 8, 0, 0, 800, [0.5, 0.5, 0.5], 0.0),
        Speed("texts", LIBRARY, 8, 0, 0, 800, [1.0, 1.0, 1.0], 0.0),
    ],
    peak_gflops=100.0,
)
RESULTS = Results(
    {"date": "2026-11-30", "cores": 2, "cpu": "AMD EPYC", "torch": "2.13.0"},
    "Qwen3-VL 2B",
    LARGE,
    HERE,
    0.25,
    [Served("photos", 8, 1.5, 4321.0, 3.25)],
    {"model vision": 1234.0, "gateway": 99.0},
)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("Qwen3-VL 2B", 2_127_532_032),
        ("Qwen3-VL 8B", 8_767_123_696 - 4096 * 151_936),
        ("Qwen2-VL 2B", 2_208_985_600),
        ("Qwen2.5-VL 3B", 3_754_622_976),
    ],
)
def test_weights_are_those_of_the_files_on_the_hub(name: str, number: int) -> None:
    """The hub gives these numbers of their safetensors files; the head of the largest has weights of its own."""
    assert whole(PUBLISHED[name]).all == number


def test_products_are_those_of_the_towers() -> None:
    """By hand, for Qwen3-VL 2B."""
    found = whole(PUBLISHED["Qwen3-VL 2B"])
    assert found.per_token == 28 * (2 * 2048 * 2048 + 2 * 2048 * 1024 + 3 * 2048 * 6144)
    blocks = 24 * (4 * 1024 * 1024 + 2 * 1024 * 4096)
    mergers = 4 * (4096 * 4096 + 4096 * 2048)
    assert found.per_patch == blocks + 1024 * 3 * 2 * 16 * 16 + mergers / 4


@pytest.mark.parametrize("name", PUBLISHED)
def test_page_says_what_models_hold_and_compute(name: str) -> None:
    published = PUBLISHED[name]
    row = vision.sizes(name, whole(published), *published.counts(640, 480))
    assert row in Path("docs/models.md").read_text().splitlines()


def test_fewer_layers_leave_the_rest_as_it_is() -> None:
    sizes = PUBLISHED["Qwen3-VL 2B"].sizes(2, 4, 512, 640 * 480)
    assert (sizes.text["num_hidden_layers"], sizes.text["hidden_size"]) == (2, 2048)
    assert (sizes.vision["depth"], sizes.vision["deepstack_visual_indexes"]) == (4, [1, 2])


def test_speeds_are_medians_and_ratios_of_rounds() -> None:
    section = vision.section(RESULTS).splitlines()
    assert "| photos | packed | 2.67 | 2.67 | 1,333 | 533 | 5% | **2.00** |" in section
    assert "| texts | packed | 16.00 | - | - | 1,600 | 6% | **2.00** |" in section
    assert "| photos | 8 | 1.50 | 4,321 ms | 3.2 |" in section
    assert any("multiplies 10.0 times as many weights" in line and "about 10% as many" in line for line in section)
    assert section[-1] == "Resident memory at the end: model vision 1,234 MiB, gateway 99 MiB."


def test_models_are_told_what_was_measured() -> None:
    assert vision.measured(RESULTS) == (
        "Measured on 2026-11-30 on 2 cores of an AMD EPYC in fp32, with 2 text and 4 vision layers of Qwen3-VL 2B:"
        " 2.67 images/s in process and 1.50 through the server. The model's process takes 1,234 MiB, of which the"
        " weights are 885 MiB. The whole model does 10.0 times the products for an image: by this, one in 4 s.\n"
    )


def test_a_gpu_has_the_same_table_and_the_memory_of_packs() -> None:
    one = Vision(HERE.model, HERE.layers, HERE.words, SMALL, HERE.speeds, 100.0, {"photos": 321.0})
    section = gpu.render(GpuResults({**RESULTS.machine, "gpu": "NVIDIA H200", "python": "3.12.3"}, vision=[one]))
    assert (
        "Qwen3-VL 2B: 2 text and 4 vision layers, 232 million weights, 321 MiB for a pack of photos."
        in section.splitlines()
    )
    assert "| photos | packed | 2.67 | 2.67 | 1,333 | 533 | 5% | **2.00** |" in section.splitlines()
