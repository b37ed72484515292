from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.util import mean_maxsim_pairwise
from torch import Tensor
from torch.nn import functional

from export.graphs import program
from export.manifest import ModelSpec
from export.runtime.contract import DOCUMENT, GRIDS, PATCHES, QUERY, QUERY_VECTORS, SCORE, TOKEN_VECTORS, Row
from export.runtime.torch_engine import Engine
from export.tasks import chat, late_interaction
from export.tasks.images import ImageReader
from export.tower import Tower
from loadtest.tools import tiny_pages

SOURCES: dict[str, Callable[[Path], Path]] = {
    "ColPali": tiny_pages.write_colpali,
    "ColPali of Gemma 2": partial(tiny_pages.write_colpali, text="gemma2"),
    "ColQwen2": tiny_pages.write_colqwen2,
    "ColQwen2 of Qwen2.5-VL": partial(tiny_pages.write_colqwen2, backbone="Qwen2.5-VL"),
    "ColQwen2 of Qwen3-VL": partial(tiny_pages.write_colqwen2, backbone="Qwen3-VL"),
    "a chat with Qwen3-VL": tiny_pages.write_chat,
}
QUERIES = ["sea shells", "what is brass? " * 6, "a <b>?", "sea shells", "x"]
SIZES = ((60, 40), (30, 90), (300, 200), (97, 203), (16, 16))
"""Width and height of the pages, in pixels."""
EXACT = 5e-6
"""The largest difference of normalized vectors, relative to the largest value: a few roundings."""


def spec(source: Path) -> ModelSpec:
    return ModelSpec(name="tiny", task="multi-vector", source=str(source), backend="torch")


def page(number: int, size: tuple[int, int]) -> Image.Image:
    width, height = size
    noise = np.random.default_rng(number).integers(0, 128, (height, width, 3))
    ramp = np.linspace(0, 127, width)[None, :, None]
    return Image.fromarray((noise + ramp).astype(np.uint8))


def load(source: Path) -> Tower:
    (tower,) = late_interaction.load(spec(source), source)
    return tower


def row(tower: Tower, reader: ImageReader, query: str, document: Sequence[str | Image.Image]) -> Row:
    """As the gateway makes it: the parameters of the entry say how."""
    words, chat = tower.vocabulary, tower.parameters["chat"]
    assert words is not None
    patches, grids, text = [np.zeros((0, 3 * reader.size**2), np.uint8)], [], ""
    for part in document:
        if isinstance(part, str):
            text += part
        else:
            pixels, grid = reader.read(part)
            patches.append(pixels)
            grids.append(grid)
            merged = grid[0] * grid[1] // tower.parameters["image_merge"] ** 2
            text += chat["image"].replace("{patches}", chat["patch"] * merged)
    template = chat["document"] if grids else chat.get("document_text", chat["document"])
    texts = (template.replace("{content}", text) for template, text in ((chat["query"], query), (template, text)))
    told = (text.replace("{instruction}", chat.get("instruction", "")) for text in texts)
    ids = [np.array(words.tokenizer.encode(one, add_special_tokens=False).ids, np.int64) for one in told]
    return (*ids, np.concatenate(patches), np.array(grids, np.int32).reshape(-1, 2))


def far(found: Any, expected: Sequence[Tensor]) -> float:
    """The largest difference of vectors that are normalized, over all rows."""
    differences = []
    for own, other in zip(found, expected, strict=True):
        assert own.shape == other.shape
        normalized = own / np.linalg.norm(own, axis=1, keepdims=True)
        differences.append(float(np.abs(normalized - other.numpy()).max() / other.abs().max()))
    return max(differences)


@pytest.mark.parametrize("source", SOURCES)
def test_pages_and_queries_are_read_as_in_sentence_transformers(source: str, tmp_path: Path) -> None:
    folder = SOURCES[source](tmp_path / "source")
    model = MultiVectorEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    tower = load(folder)
    assert tower.fields == (QUERY, DOCUMENT, PATCHES, GRIDS)
    first: Any = model[0]
    reader = ImageReader.of(spec(folder), first.processor.image_processor, first.model.base_model.config.vision_config)
    documents: list[Any] = [page(number, size) for number, size in enumerate(SIZES)]
    rows = [row(tower, reader, query, [document]) for query, document in zip(QUERIES, documents, strict=True)]
    rows.append(row(tower, reader, QUERIES[1], [QUERIES[0]]))
    documents.append(QUERIES[0])
    if "message" in first.modality_config:
        mixed = ["first", documents[0], documents[2], "second"]
        rows.append(row(tower, reader, QUERIES[2], mixed))
        documents.append(chat.message(mixed))
    (tmp_path / "program").mkdir()
    engine = Engine(program.write(tower, tmp_path / "program", "fp32"), device="cpu")
    together: Any = engine.run(rows, (SCORE, TOKEN_VECTORS, QUERY_VECTORS))
    # Not in a batch, in which the library pads.
    queries = [*QUERIES, QUERIES[1], QUERIES[2]][: len(documents)]
    left, right = [model.encode_query(one) for one in queries], [model.encode_document(one) for one in documents]
    assert max(far(together[TOKEN_VECTORS], right), far(together[QUERY_VECTORS], left)) < EXACT
    np.testing.assert_allclose(np.ravel(together[SCORE]), mean_maxsim_pairwise(left, right), rtol=0, atol=1e-6)
    for place, one in enumerate(rows):
        alone: Any = engine.run([one], (SCORE, TOKEN_VECTORS))
        np.testing.assert_allclose(alone[TOKEN_VECTORS][0], together[TOKEN_VECTORS][place], rtol=0, atol=1e-5)
        expected = tower.reference(one)
        assert far([together[TOKEN_VECTORS][place]], [functional.normalize(expected[TOKEN_VECTORS])]) < EXACT
