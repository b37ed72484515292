"""Vision-language models as packed programs, against the models themselves."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, Qwen2VLImageProcessorPil

from export.graphs import program
from export.packing.families import FAMILIES
from export.packing.heads import Encode, Pool, TextEmbedding
from export.packing.vision import VisionEncoder
from export.runtime import program as files
from export.runtime.contract import (
    EMBEDDING,
    GRIDS,
    PATCHES,
    TEXT,
    TEXT_EMBEDDING,
    TOKEN_VECTORS,
    Output,
    Row,
    Values,
)
from export.runtime.program import ProgramError
from export.runtime.torch_engine import Engine
from export.tower import Tower, Vocabulary
from loadtest.tools import tiny
from tests.export.outputs import by_head

WIDTH, VOCABULARY = 64, 300
IMAGE, START, END = 290, 292, 293
OUTPUTS = (EMBEDDING, TOKEN_VECTORS)
ERROR = 2e-6
"""Of the largest value. The models themselves are as far from what they give in float64."""
Parts = Sequence[int | tuple[int, int]]
"""A row: so many tokens of text, or the height and width of an image in merged patches."""

TEXT_CONFIG: Mapping[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 4096,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
ROPE: Mapping[str, Any] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 2, 2]}
VISION_CONFIG: Mapping[str, Any] = {
    "depth": 3,
    "num_heads": 3,
    "patch_size": 4,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
}
CONFIGS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "qwen2_vl": ({"rope_parameters": ROPE}, {"embed_dim": 48, "hidden_size": WIDTH, "mlp_ratio": 2}),
    "qwen2_5_vl": (
        {"rope_parameters": ROPE},
        {
            "hidden_size": 48,
            "intermediate_size": 96,
            "out_hidden_size": WIDTH,
            "fullatt_block_indexes": [1],
            "window_size": 16,
        },
    ),
    "qwen3_vl": (
        {"head_dim": 16, "rope_parameters": {**ROPE, "mrope_interleaved": True}},
        {
            "hidden_size": 48,
            "intermediate_size": 96,
            "out_hidden_size": WIDTH,
            "deepstack_visual_indexes": [0, 2],
            "num_position_embeddings": 64,
        },
    ),
}


def processor() -> Any:
    return Qwen2VLImageProcessorPil(patch_size=4, size={"shortest_edge": 64, "longest_edge": 1 << 20})


def model(kind: str) -> Any:
    text, vision = CONFIGS[kind]
    config = AutoConfig.for_model(
        kind,
        text_config={**TEXT_CONFIG, **copy.deepcopy(text)},
        vision_config={**VISION_CONFIG, **vision},
        image_token_id=IMAGE,
        video_token_id=291,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    torch.manual_seed(0)
    made = AutoModel.from_config(config).eval()
    for weight in made.parameters():
        if weight.ndim > 1:
            weight.data.normal_(0, 0.05)
    return made


def row(parts: Parts, seed: int = 0) -> Row:
    """A row of random tokens and pixels."""
    random = np.random.default_rng(seed)
    ids: list[int] = []
    patches: list[np.ndarray] = [np.zeros((0, 48), np.uint8)]
    grids: list[tuple[int, int]] = []
    for part in parts:
        if isinstance(part, int):
            ids += random.integers(5, 280, part).tolist()
        else:
            height, width = part
            ids += [START, *[IMAGE] * (height * width), END]
            grids.append((2 * height, 2 * width))
            patches.append(random.integers(0, 256, (4 * height * width, 48), np.uint8))
    return np.array(ids), np.concatenate(patches), np.array(grids, np.int32).reshape(-1, 2)


def pictures(of_row: Row) -> list[np.ndarray]:
    """The images of a row, [H, W, 3], out of patches in blocks of 2 x 2."""
    found = []
    begin = 0
    for height, width in of_row[2].tolist():
        own = of_row[1][begin : begin + height * width].reshape(height // 2, width // 2, 2, 2, 3, 4, 4)
        found.append(own.transpose(0, 2, 5, 1, 3, 6, 4).reshape(4 * height, 4 * width, 3))
        begin += height * width
    return found


def reference(whole: Any, of_row: Row) -> dict[str, Tensor]:
    """By the model itself, from the pixels of its images."""
    ids = torch.from_numpy(of_row[0])[None]
    given: dict[str, Any] = {}
    if len(of_row[2]):
        seen = processor()(images=pictures(of_row), do_resize=False, return_tensors="pt")
        assert seen["image_grid_thw"][:, 1:].tolist() == of_row[2].tolist()
        given = {**seen, "mm_token_type_ids": (ids == IMAGE).to(torch.int32)}
    with torch.no_grad():
        hidden = whole(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **given).last_hidden_state
    return {EMBEDDING: hidden[0, -1], TOKEN_VECTORS: hidden[0]}


def tower(kind: str) -> Tower:
    whole = model(kind)
    encoder = VisionEncoder(copy.deepcopy(whole), processor(), FAMILIES[kind])
    return Tower(
        name="tiny",
        role=TEXT_EMBEDDING,
        fields=(TEXT, PATCHES, GRIDS),
        outputs=(Output(EMBEDDING, (WIDTH,)), Output(TOKEN_VECTORS, (WIDTH,), "token")),
        head=TextEmbedding(Encode(encoder), [Pool("lasttoken")], tokens=True),
        reference=lambda of_row: reference(whole, of_row),
        samples=lambda: [row(parts, seed) for seed, parts in enumerate(ROWS)],
        vocabulary=Vocabulary(tiny.decoder_pairs().backend_tokenizer, VOCABULARY, 512, 0),
        packed=True,
        vision=encoder.vision,
    )


ROWS: Sequence[Parts] = (
    [7, (3, 4), 5],
    [9],
    [(2, 2), 3, (1, 6), 2],
    [(1, 1)],
    [1],
    [(5, 7), (7, 5), (1, 1), 4],
    [40],
    [(1, 30)],
)


def far(found: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> float:
    return max(
        float((torch.as_tensor(found[name]) - wanted[name]).abs().max() / wanted[name].abs().max()) for name in wanted
    )


def compare(given: Tower, run: Callable[[Sequence[Row]], Mapping[str, Values]]) -> None:
    """Rows together and alone with the model's."""
    rows = list(given.samples())
    wanted = [given.reference(one) for one in rows]
    together = run(rows)
    for place, (one, want) in enumerate(zip(rows, wanted, strict=True)):
        assert far({name: values[place] for name, values in together.items()}, want) <= ERROR
        assert far({name: values[0] for name, values in run([one]).items()}, want) <= ERROR


@pytest.mark.parametrize("kind", CONFIGS)
def test_rows_of_texts_and_images_are_what_the_model_gives(kind: str) -> None:
    given = tower(kind)
    compare(given, lambda rows: by_head(given, rows))


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])  # what qwen2_vl has, these have too
def test_programs_compute_what_they_are_traced_from(kind: str, tmp_path: Path) -> None:
    given = tower(kind)
    engine = Engine(program.write(given, tmp_path, "fp32"))
    compare(given, lambda rows: engine.run(rows, OUTPUTS))


def test_pixels_of_one_image_move_only_its_row(tmp_path: Path) -> None:
    given = tower("qwen2_5_vl")
    engine = Engine(program.write(given, tmp_path, "bf16"))
    rows = list(given.samples())
    before = engine.run(rows, OUTPUTS)[EMBEDDING]
    ids, patches, grids = rows[2]
    rows[2] = (ids, patches[::-1].copy(), grids)
    after = engine.run(rows, OUTPUTS)[EMBEDDING]
    moved = [bool(np.abs(np.asarray(a) - np.asarray(b)).max() > 0) for a, b in zip(before, after, strict=True)]
    assert moved == [place == 2 for place in range(len(rows))]
    wanted = torch.stack([given.reference(one)[EMBEDDING] for one in rows])
    assert torch.cosine_similarity(torch.as_tensor(np.asarray(after)), wanted).min() > 0.999
    assert not engine.spec.padded
    loaded = files.load(tmp_path, torch.device("cpu"), files.IMAGES)
    for value in (node.meta.get("val") for node in loaded.graph.nodes):
        if isinstance(value, Tensor):  # neither patches by patches nor tokens by rows
            assert sum(isinstance(size, torch.SymInt) for size in value.shape) <= 1
    assert engine.spec.vision is not None
    assert not {*engine.spec.inputs} & {*engine.spec.vision.inputs}
    (tmp_path / files.IMAGES).rename(tmp_path / "elsewhere.pt2")
    with pytest.raises(ProgramError, match=r"images\.pt2 is damaged or missing"):
        Engine(tmp_path / files.PROGRAM)
