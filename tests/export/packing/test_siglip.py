"""Families that read images in tiles, by a budget or of any shape, as packed programs, against the models."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from PIL import Image
from sentence_transformers import SentenceTransformer
from torch import Tensor

from export.errors import SourceError
from export.graphs import program
from export.manifest import ModelSpec
from export.packing.families import FAMILIES
from export.packing.heads import Encode, Pool, TextEmbedding
from export.packing.vision import VisionEncoder
from export.runtime.contract import EMBEDDING, GRIDS, PATCHES, TEXT, TEXT_EMBEDDING, TOKEN_VECTORS, Array, Output, Row
from export.runtime.torch_engine import Engine
from export.tasks import image_text
from export.tower import Tower, Vocabulary
from loadtest.tools import tiny, tiny_tiles

SIZE = 4
"""Pixels on a side of a patch."""
ERROR = 1e-6
"""Of the largest value."""
ERRORS: Mapping[str, float] = {"modernvbert": ERROR, "embedding_gemma2": 1e-5}
"""Of the vectors of tokens. Gemma does not scale its scores, so that rounding shows: between two of transformers' own
kinds of attention it is as large."""
Parts = Sequence[int | tuple[int, int]]
"""A row: so many tokens of text, or the height and width of an image in merged patches."""
ROWS: Mapping[str, Sequence[Parts]] = {
    "modernvbert": ([7, (2, 2), 5], [9], [(2, 2), (2, 2), 3, (2, 2)], [1], [40], [(2, 2)]),
    "embedding_gemma2": ([7, (3, 4), 5], [9], [(2, 2), 3, (1, 6), 2], [(1, 1)], [1], [(5, 7), (7, 5), 4], [(1, 10)]),
}
WRITE: Mapping[str, Callable[[Path], Path]] = {
    "modernvbert": tiny_tiles.write_modernvbert,
    "embedding_gemma2": tiny_tiles.write_embedding_gemma2,
}


def pictures(patches: Array, grids: Array, merge: int) -> list[Image.Image]:
    """The images of a row, out of patches in blocks of merge x merge."""
    found, begin = [], 0
    for height, width in grids.tolist():
        own = patches[begin : begin + height * width].reshape(height // merge, width // merge, merge, merge, 3, 4, 4)
        pixels = own.transpose(0, 2, 5, 1, 3, 6, 4).reshape(SIZE * height, SIZE * width, 3)
        found.append(Image.fromarray(np.ascontiguousarray(pixels)))
        begin += height * width
    return found


def row(parts: Parts, token: int, merge: int, seed: int) -> Row:
    """A row of random tokens and pixels."""
    chance = np.random.default_rng(seed)
    ids: list[int] = []
    patches: list[Array] = [np.zeros((0, 3 * SIZE**2), np.uint8)]
    grids: list[tuple[int, int]] = []
    for part in parts:
        if isinstance(part, int):
            ids += chance.integers(5, 280, part).tolist()
        else:
            height, width = part
            ids += [token] * (height * width)
            grids.append((merge * height, merge * width))
            patches.append(chance.integers(0, 256, (merge**2 * height * width, 3 * SIZE**2), np.uint8))
    return np.array(ids), np.concatenate(patches), np.array(grids, np.int32).reshape(-1, 2)


def reference(transformer: Any, of_row: Row, merge: int) -> dict[str, Tensor]:
    """By the model itself, from the pixels of its images."""
    ids, patches, grids = of_row
    given: dict[str, Any] = {}
    if len(grids):
        processor = transformer.processor.image_processor
        images = pictures(patches, grids, merge)
        whole = {"do_image_splitting": False} if hasattr(processor, "do_image_splitting") else {}
        given = dict(processor(images=[images], do_resize=False, **whole, return_tensors="pt"))
        given.pop("num_soft_tokens_per_image", None)
    one = torch.from_numpy(ids)[None]
    with torch.no_grad():
        hidden = transformer.auto_model(input_ids=one, attention_mask=torch.ones_like(one), **given).last_hidden_state
    return {EMBEDDING: hidden[0].mean(0), TOKEN_VECTORS: hidden[0]}


def tower(kind: str, folder: Path) -> Tower:
    transformer: Any = SentenceTransformer(str(WRITE[kind](folder)), device="cpu")[0].eval()
    encoder = VisionEncoder(
        copy.deepcopy(transformer.auto_model), transformer.processor.image_processor, FAMILIES[kind]
    )
    merge, width = encoder.vision.merge, transformer.get_embedding_dimension()
    return Tower(
        name="tiny",
        role=TEXT_EMBEDDING,
        fields=(TEXT, PATCHES, GRIDS),
        outputs=(Output(EMBEDDING, (width,)), Output(TOKEN_VECTORS, (width,), "token")),
        head=TextEmbedding(Encode(encoder), [Pool("mean")], tokens=True),
        reference=lambda of_row: reference(transformer, of_row, merge),
        samples=lambda: [row(parts, encoder.vision.token, merge, seed) for seed, parts in enumerate(ROWS[kind])],
        vocabulary=Vocabulary(transformer.tokenizer.backend_tokenizer, len(transformer.tokenizer), 512, 0),
        packed=True,
        vision=encoder.vision,
    )


def far(found: Mapping[str, Any], wanted: Mapping[str, Tensor], place: int) -> float:
    def error(found: Tensor, wanted: Tensor) -> float:
        return float((found - wanted).abs().max() / wanted.abs().max())

    return max(error(torch.as_tensor(found[name][place]), wanted[name]) for name in wanted)


@pytest.mark.parametrize("kind", ROWS)
def test_rows_of_texts_and_images_are_what_the_model_gives(kind: str, tmp_path: Path) -> None:
    given = tower(kind, tmp_path)
    engine = Engine(program.write(given, tmp_path, "fp32"))
    rows = list(given.samples())
    wanted = [given.reference(one) for one in rows]
    together = engine.run(rows, (EMBEDDING, TOKEN_VECTORS))
    for place, (one, want) in enumerate(zip(rows, wanted, strict=True)):
        assert far(together, want, place) <= ERRORS[kind]
        assert far(engine.run([one], (EMBEDDING, TOKEN_VECTORS)), want, 0) <= ERRORS[kind]


def naflex(source: Path) -> tuple[Tower, Tower]:
    given = ModelSpec(name="tiny", task="image-text", source=str(source), backend="torch")
    text, image = image_text.load(given, source)
    return text, image


def test_naflex_embeds_images_of_any_shape_together(tmp_path: Path) -> None:
    _, image = naflex(tiny.write_image_text(tmp_path / "source", "SigLIP 2"))
    assert image.fields == (PATCHES, GRIDS)
    rows = image.samples()
    with torch.inference_mode():
        wanted = [image.reference(one) for one in rows]
    engine = Engine(program.write(image, tmp_path, "fp32"))
    together = engine.run(rows, (EMBEDDING,))
    assert max(far(together, want, place) for place, want in enumerate(wanted)) <= ERROR
    assert max(far(engine.run([one], (EMBEDDING,)), want, 0) for one, want in zip(rows, wanted, strict=True)) <= ERROR


def test_naflex_computes_in_half_precision(tmp_path: Path) -> None:
    _, image = naflex(tiny.write_image_text(tmp_path / "source", "SigLIP 2"))
    rows = image.samples()
    with torch.inference_mode():
        wanted = torch.stack([image.reference(one)[EMBEDDING] for one in rows])
    found = Engine(program.write(image, tmp_path, "bf16")).run(rows, (EMBEDDING,))[EMBEDDING]
    errors = 1 - torch.cosine_similarity(torch.as_tensor(np.asarray(found)), wanted)
    assert 1e-6 < errors.max() < 1e-3


def test_entry_of_naflex_names_its_image_processor(tmp_path: Path) -> None:
    _, image = naflex(tiny.write_image_text(tmp_path, "SigLIP 2"))
    assert image.parameters == {
        "name": "tiny",
        "image_merge": 1,
        "image_processor": {
            "kind": "naflex",
            "patch": 8,
            "merge": 1,
            "max_patches": 16,
            "resample": "bilinear",
        },
    }


def test_naflex_without_resizing_is_refused(tmp_path: Path) -> None:
    source = tiny.write_image_text(tmp_path, "SigLIP 2")
    tiny.revise(source / "preprocessor_config.json", do_resize=False)
    with pytest.raises(SourceError, match=r"^\[tiny\] source: its images are not resized to patches of 8 pixels"):
        naflex(source)


def test_other_backends_see_squares(tmp_path: Path) -> None:
    source = tiny.write_image_text(tmp_path, "SigLIP 2")
    given = replace(ModelSpec(name="tiny", task="image-text", source=str(source)), backend="python")
    _, image = image_text.load(given, source)
    assert image.parameters["image_resize"] == {"height": 32, "width": 32}
