"""What a host makes of grids, against transformers' own helpers."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.siglip2.modeling_siglip2 import Siglip2VisionEmbeddings
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from export.runtime.vision import (
    Grid,
    Table,
    Vision,
    image_starts,
    longest_image,
    patch_positions,
    resized,
    rope_positions,
    taps,
    windows,
)
from tests.export.packing.test_vision import model

TOKEN = 7
MERGES = (1, 2, 3)


@pytest.fixture(scope="module")
def qwen() -> Any:
    """A tiny Qwen3-VL."""
    return model("qwen3_vl")


def grids(merge: int) -> list[Grid]:
    """Small, thin, square and large ones."""
    random = np.random.default_rng(0)
    some = [(1, 1), (1, 40), (40, 1), (8, 8), (9, 16), (31, 33), *random.integers(1, 24, (20, 2)).tolist()]
    return [(merge * height, merge * width) for height, width in some]


def as_films(given: list[Grid]) -> torch.Tensor:
    """The same as transformers takes them, of one frame each."""
    return torch.tensor([(1, height, width) for height, width in given])


def test_images_begin_where_those_before_them_end() -> None:
    given = grids(2)
    starts = image_starts(given)
    assert starts[:-1].tolist() == get_vision_cu_seqlens(as_films(given)).tolist()
    assert starts[-1] == starts[-2]  # the empty image
    assert image_starts([]).tolist() == [0, 0]
    assert longest_image(given) >= max(height * width for height, width in given)
    assert longest_image(given) % 8 == 0


@pytest.mark.parametrize("merge", MERGES)
def test_positions_of_patches(merge: int) -> None:
    given = grids(merge)
    assert patch_positions(given, merge).tolist() == get_vision_position_ids(as_films(given), merge).tolist()


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("align_corners", [True, False])
def test_taps_of_a_table_of_positions(merge: int, mode: str, align_corners: bool) -> None:
    given = grids(merge)
    found, weights = taps(given, merge, Table(16, mode, align_corners))
    wanted = get_vision_interpolation_indices_and_weights(
        as_films(given), 16, mode, align_corners, spatial_merge_size=merge
    )
    assert found.tolist() == wanted[0].tolist()
    assert np.abs(weights - wanted[1].numpy()).max() <= 1e-6
    assert weights.dtype == np.float32


@pytest.mark.parametrize("side", [1, 2, 4, 5])
def test_windows(side: int) -> None:
    given = grids(2)
    order, starts = windows(given, 2, side)
    wanted = get_vision_window_index(as_films(given), 2, window_size=side * 2 * 14, patch_size=14)
    assert order.tolist() == wanted[0].tolist()
    assert starts[:-1].tolist() == wanted[1].tolist()
    assert starts[-1] == starts[-2]  # the empty window


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("seed", range(20))
def test_positions_of_tokens(qwen: Any, merge: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    given = [grids(merge)[i] for i in random.integers(0, 26, random.integers(1, 5))]
    ids: list[int] = []
    for height, width in given:
        ids += [1] * int(random.integers(1, 6)) + [TOKEN] * (height * width // merge**2)
    ids += [2] * int(random.integers(0, 6))
    qwen.config.vision_config.spatial_merge_size = merge
    wanted, _ = qwen.get_rope_index(
        torch.tensor([ids]),
        (torch.tensor([ids]) == TOKEN).to(torch.int32),
        image_grid_thw=as_films(given),
    )
    assert rope_positions(np.array(ids), TOKEN, given, merge).tolist() == wanted[:, 0].tolist()


def test_text_alone_has_one_position_three_times() -> None:
    assert rope_positions(np.arange(3), TOKEN, (), 2).tolist() == [[0, 1, 2]] * 3


def test_inputs_are_what_the_family_takes() -> None:
    plain = Vision(token=-1, merge=1, patch_bytes=48)
    assert plain.inputs == ("patches", "image_starts", "longest_image")
    assert plain.make([(2, 2)]) == {}
    whole = Vision(TOKEN, 2, 48, axial=True, table=Table(8, "bilinear", True), window=2, mrope=True)
    assert whole.inputs[-6:] == (*whole.made, "positions")
    assert tuple(whole.make([(2, 4)])) == whole.made


def test_tables_are_resized_as_siglip_does() -> None:
    side = 16
    table = torch.randn(side, side, 3, generator=torch.Generator().manual_seed(0))
    given = grids(1)
    down, across = map(torch.from_numpy, resized(given, 1, side))
    found = torch.einsum("pi,pj,ijd->pd", down, across, table)
    embeddings: Any = Siglip2VisionEmbeddings
    expected = [
        embeddings.resize_positional_embeddings(table, torch.tensor([grid]), grid[0] * grid[1])[0] for grid in given
    ]
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-6, rtol=1e-6)


def test_weights_of_no_images_have_none() -> None:
    assert [weights.shape for weights in resized([], 1, 4)] == [(0, 4), (0, 4)]
