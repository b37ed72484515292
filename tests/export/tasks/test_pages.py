import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from PIL import Image
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.util import mean_maxsim_pairwise
from torch import Tensor
from torch.nn import functional

from export.errors import SourceError
from export.graphs import program
from export.manifest import ModelSpec
from export.runtime.contract import DOCUMENT, GRIDS, PATCHES, QUERY, QUERY_VECTORS, SCORE, TOKEN_VECTORS, Row
from export.runtime.torch_engine import Engine
from export.tasks import chat, late_interaction
from export.tasks.images import ImageReader
from export.tower import Tower
from loadtest.tools import tiny, tiny_pages
from tests.export.outputs import by_head

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
    together: Any = by_head(tower, rows)
    # Not in a batch, in which the library pads.
    queries = [*QUERIES, QUERIES[1], QUERIES[2]][: len(documents)]
    left, right = [model.encode_query(one) for one in queries], [model.encode_document(one) for one in documents]
    assert max(far(together[TOKEN_VECTORS], right), far(together[QUERY_VECTORS], left)) < EXACT
    np.testing.assert_allclose(np.ravel(together[SCORE]), mean_maxsim_pairwise(left, right), rtol=0, atol=1e-6)
    for place, one in enumerate(rows):
        alone: Any = by_head(tower, [one])
        np.testing.assert_allclose(alone[TOKEN_VECTORS][0], together[TOKEN_VECTORS][place], rtol=0, atol=1e-5)
        expected = tower.reference(one)
        assert far([together[TOKEN_VECTORS][place]], [functional.normalize(expected[TOKEN_VECTORS])]) < EXACT


def test_programs_compute_what_they_are_traced_from(tmp_path: Path) -> None:
    """Of ColPali, whose text tower is its own; what the others trace, tests/export/packing does too."""
    tower = load(tiny_pages.write_colpali(tmp_path / "source"))
    rows = tower.samples()[::4]
    assert {bool(len(grids)) for *_, grids in rows} == {True, False}
    (tmp_path / "program").mkdir()
    engine = Engine(program.write(tower, tmp_path / "program", "fp32"))
    names = (SCORE, TOKEN_VECTORS, QUERY_VECTORS)
    found, traced = by_head(tower, rows), engine.run(rows, names)
    for name in names:
        for own, other in zip(traced[name], found[name], strict=True):
            np.testing.assert_allclose(own, other, rtol=0, atol=1e-5)


def test_backend_is_torch(tmp_path: Path) -> None:
    folder = tiny_pages.write_colpali(tmp_path)
    with pytest.raises(SourceError, match='backend: a model that reads images needs backend = "torch"'):
        late_interaction.load(replace(spec(folder), backend="python"), folder)


def test_entry_says_how_pages_and_queries_are_read(tmp_path: Path) -> None:
    query = "<bos>Question: {content}" + "<pad>" * 10 + "\n"
    assert load(tiny_pages.write_colpali(tmp_path)).parameters == {
        "image_token": 500,
        "image_merge": 1,
        "image_processor": {
            "kind": "fixed",
            "patch": 8,
            "merge": 1,
            "height": 64,
            "width": 64,
            "resample": "bicubic",
        },
        "chat": {
            "query": query,
            "document": "{content}<bos>Describe the image.\n",
            "document_text": query,
            "image": "{patches}",
            "patch": "<image>",
        },
        "max_images": 1,
    }


def test_words_of_the_processor_are_taken_over(tmp_path: Path) -> None:
    folder = tiny_pages.write_colqwen2(tmp_path)
    page = "<|vision_start|><|image_pad|><|vision_end|>A page."
    tiny.revise(folder / "processor_config.json", query_prefix="Find: ", visual_prompt_prefix=page)
    chat = load(folder).parameters["chat"]
    assert chat["query"].startswith("Find: {content}<|endoftext|>")
    assert chat["document"] == "<|vision_start|>{content}<|vision_end|>A page."


def _mask(folder: Path) -> None:
    model = MultiVectorEncoder(str(folder), device="cpu")
    mask: Any = model[1]
    mask.keep_only_token_ids = [500]
    model.save(str(folder))


def _switch(folder: Path) -> None:
    file = folder / "processor_config.json"
    images = json.loads(file.read_text())["image_processor"]
    tiny.revise(file, image_processor=images | {"do_normalize": False})


def _token(folder: Path) -> None:
    file = folder / "config.json"
    tiny.revise(file, vlm_config=json.loads(file.read_text())["vlm_config"] | {"image_token_index": 7})


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "only tokens of images": (_mask, "MultiVectorMask, or one for the tokens of images only"),
    "image settings": (_switch, "its image processor has do_normalize = false"),
    "another token": (_token, "the processor has token 500 for images, the model another"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_read_otherwise_is_refused(case: str, tmp_path: Path) -> None:
    change, message = WRONG[case]
    folder = tiny_pages.write_colpali(tmp_path)
    change(folder)
    with pytest.raises(SourceError, match=re.escape(message)):
        load(folder)
