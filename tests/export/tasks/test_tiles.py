"""Models that read images in tiles or by a budget, from texts and pixels, against their libraries' own calls."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import mean_maxsim_pairwise
from torch.nn import functional
from transformers import AutoProcessor, ColModernVBertForRetrieval

from export.errors import SourceError
from export.manifest import ModelSpec
from export.runtime.contract import EMBEDDING, QUERY_VECTORS, SCORE, TOKEN_VECTORS, Row
from export.tasks import chat, late_interaction, text_embedding
from export.tasks.images import ImageReader
from export.tower import Tower
from export.verification import samples
from gateway.images import processors
from loadtest.tools import tiny, tiny_tiles
from tests.export.outputs import by_head

PICTURES = samples.pictures()
ITEMS: Sequence[chat.Content] = (
    ["a shell"],
    [PICTURES[1]],
    ["a shell like ", PICTURES[2], " or like ", PICTURES[4], "?"],
    [PICTURES[3], samples.text(3, 200)],
    [samples.text(1, 300)],
    [PICTURES[0], PICTURES[5]],
)
EMBEDDERS: dict[str, Callable[[Path], Path]] = {
    "ModernVBERT": tiny_tiles.write_modernvbert,
    "EmbeddingGemma 2": tiny_tiles.write_embedding_gemma2,
}


def spec(source: Path, task: Any = "text-embedding") -> ModelSpec:
    return ModelSpec(name="tiny", task=task, source=str(source), backend="torch")


def load(given: ModelSpec) -> Tower:
    loads = late_interaction.load if given.task == "multi-vector" else text_embedding.load
    (tower,) = loads(given, Path(given.source))
    return tower


def reader(source: Path, processor: Any, config: Any) -> ImageReader:
    merge = getattr(config, "pixel_shuffle_factor", 1)
    return ImageReader.of(spec(source), processor.image_processor, config.vision_config, merge)


def row(tower: Tower, images: ImageReader, template: str, content: chat.Content) -> Row:
    """A row by the entry's parameters, as the gateway makes it: its own code writes the text of an image."""
    assert tower.vocabulary is not None
    told = tower.parameters["chat"]
    own = processors.Tiles if tower.parameters["image_processor"]["kind"] == "tiles" else processors.Budget
    settings = {key: value for key, value in tower.parameters["image_processor"].items() if key != "kind"}
    processor: Any = own(**settings)
    patches, text = [np.zeros((0, 3 * images.size**2), np.uint8)], ""
    grids: list[tuple[int, int]] = []
    for part in content:
        if isinstance(part, str):
            text += part
            continue
        seen, layout = images.see(part, told["patch"]), processor.layout(part.height, part.width)
        assert tuple(seen.grids) == layout.grids
        patches.append(seen.patches)
        grids += seen.grids
        text += processor.text(told["image"], told["patch"], layout)
    rendered = template.replace("{instruction}", told.get("instruction", "")).replace("{content}", text)
    ids = tower.vocabulary.tokenizer.encode(rendered, add_special_tokens=False).ids
    return np.array(ids), np.concatenate(patches), np.array(grids, np.int32).reshape(-1, 2)


def far(found: Any, expected: Any) -> float:
    """The largest difference of normalized vectors."""
    own = functional.normalize(torch.as_tensor(np.asarray(found)), dim=-1)
    return float((own - functional.normalize(torch.as_tensor(np.asarray(expected)), dim=-1)).abs().max())


@pytest.mark.parametrize("name", EMBEDDERS)
def test_vectors_of_texts_and_images_are_those_of_the_library(name: str, tmp_path: Path) -> None:
    source = EMBEDDERS[name](tmp_path)
    tower, reference = load(spec(source)), SentenceTransformer(str(source), device="cpu")
    first: Any = reference[0]
    images = reader(source, first.processor, first.auto_model.config)
    rows = [row(tower, images, tower.parameters["chat"]["text"], item) for item in ITEMS]
    messages: Any = [chat.message(item) for item in ITEMS]
    expected = np.concatenate([reference.encode([one]) for one in messages])
    assert far(by_head(tower, rows)[EMBEDDING], expected) < 1e-6
    for place, one in enumerate(rows):
        assert far(by_head(tower, [one])[EMBEDDING], expected[place : place + 1]) < 1e-6


def test_pages_in_tiles_are_read_as_in_transformers(tmp_path: Path) -> None:
    source = tiny_tiles.write_colmodernvbert(tmp_path)
    tower = load(spec(source, "multi-vector"))
    model: Any = ColModernVBertForRetrieval.from_pretrained(source).eval()
    processor: Any = AutoProcessor.from_pretrained(source)
    images, told = reader(source, processor, model.vlm.config), tower.parameters["chat"]
    queries, pages = ["a shell", "what is brass? " * 6, "a <b>?", "a shell", "x"], PICTURES[:5]
    rows = [
        (row(tower, images, told["query"], [query])[0], *row(tower, images, told["document"], [page]))
        for query, page in zip(queries, pages, strict=True)
    ]
    with torch.inference_mode():
        left = [model(**processor.process_queries([query], return_tensors="pt")).embeddings[0] for query in queries]
        right = [model(**processor.process_images([page], return_tensors="pt")).embeddings[0] for page in pages]
    together: Any = by_head(tower, rows)
    assert max(far(*pair) for pair in zip(together[TOKEN_VECTORS], right, strict=True)) < 2e-6
    assert max(far(*pair) for pair in zip(together[QUERY_VECTORS], left, strict=True)) < 2e-6
    np.testing.assert_allclose(np.ravel(together[SCORE]), mean_maxsim_pairwise(left, right), rtol=0, atol=1e-6)
    for place, one in enumerate(rows):
        assert far(by_head(tower, [one])[TOKEN_VECTORS][0], right[place]) < 2e-6


def test_processor_of_other_tiles_than_the_model_has_is_refused(tmp_path: Path) -> None:
    source = tiny_tiles.write_modernvbert(tmp_path)
    file = next(
        file for name in ("preprocessor_config.json", "processor_config.json") if (file := source / name).is_file()
    )
    tiny.revise(
        file,
        **{"image_processor": None} if file.name.startswith("processor") else {},
        max_image_size={"longest_edge": 64},
    )
    with pytest.raises(SourceError, match=r"^\[tiny\] source: "):
        load(spec(source))


def test_tiles_are_what_the_gateway_cuts() -> None:
    images = ImageReader.of(spec(Path()), tiny_tiles._tiles(), _Config(), 4)
    own: Any = processors.Tiles(**{key: value for key, value in images.parameter.items() if key != "kind"})
    for picture in (*PICTURES, Image.new("RGB", (32, 32)), Image.new("RGB", (1, 300))):
        seen, layout = images.see(picture, "<image>"), own.layout(picture.height, picture.width)
        assert (tuple(seen.grids), seen.text) == (layout.grids, own.text("{patches}", "<image>", layout))


class _Config:
    image_size, patch_size = tiny_tiles.TILE, 4
