"""Embedders and rerankers of texts and images: their towers, against the library's own call.

tests/export/packing and tests/end_to_end/test_seeing.py trace programs from them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from numpy.typing import NDArray
from PIL import Image
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoConfig, AutoImageProcessor

from export.errors import SourceError
from export.manifest import ModelSpec
from export.runtime.contract import EMBEDDING, GRIDS, PATCHES, SCORE, TEXT, Row
from export.tasks import chat, cross_encoder, text_embedding
from export.tasks.chat import Content
from export.tasks.images import ImageReader
from export.tower import Tower
from export.verification import samples
from loadtest.tools import tiny, tiny_vision
from tests.export.outputs import by_head

PICTURES = samples.pictures()
ITEMS: Sequence[Content] = (
    ["a shell"],
    [PICTURES[1]],
    ["a shell like ", PICTURES[2], " or like ", PICTURES[4], "?"],
    [PICTURES[3], samples.text(3, 200)],
    [samples.text(1, 300)],
    [PICTURES[0], PICTURES[5]],
)
PAIRS: Sequence[tuple[Content, Content]] = (
    (["a shell"], ["A conch is a sea snail."]),
    (["a shell"], [PICTURES[1]]),
    ([PICTURES[4]], ["A conch is ", PICTURES[5], " a sea snail."]),
    (["which?", PICTURES[0]], [PICTURES[2]]),
)


def spec(source: Path, task: Any = "text-embedding") -> ModelSpec:
    return ModelSpec(name="tiny", task=task, source=str(source), backend="torch")


def load(given: ModelSpec) -> Tower:
    loads = cross_encoder.load if given.task == "cross-encoder" else text_embedding.load
    (tower,) = loads(given, Path(given.source))
    return tower


def row(tower: Tower, source: Path, text: str, images: Sequence[Image.Image]) -> Row:
    """A row of a text in which each image is "{image}", by the entry's parameters as the gateway reads them."""
    assert tower.vocabulary is not None
    told = tower.parameters
    config = AutoConfig.from_pretrained(source).vision_config
    reader = ImageReader.of(spec(source), AutoImageProcessor.from_pretrained(source), config)
    patches, grids = [np.zeros((0, 48), np.uint8)], []
    for image in images:
        found, grid = reader.read(image)
        patches.append(found)
        grids.append(grid)
        placeholders = told["chat"]["patch"] * (grid[0] * grid[1] // told["image_merge"] ** 2)
        text = text.replace("{image}", told["chat"]["image"].replace("{patches}", placeholders), 1)
    ids = tower.vocabulary.tokenizer.encode(text, add_special_tokens=False).ids
    return np.array(ids), np.concatenate(patches), np.array(grids, np.int32).reshape(-1, 2)


def written(content: Content) -> str:
    return "".join(part if isinstance(part, str) else "{image}" for part in content)


def pictures(*contents: Content) -> list[Image.Image]:
    return [part for content in contents for part in content if not isinstance(part, str)]


def computed(tower: Tower, rows: Sequence[Row], output: str) -> NDArray[np.float32]:
    """What the head makes of rows together, which must be what it makes of each alone."""
    together = np.asarray(by_head(tower, rows)[output], np.float32)
    alone = np.concatenate([np.asarray(by_head(tower, [one])[output], np.float32) for one in rows])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6 * np.abs(alone).max())
    return together


def unit(vectors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    made: np.ndarray[Any, Any] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return made


@pytest.mark.parametrize("name", tiny_vision.FAMILIES)
def test_vectors_of_texts_and_images_are_those_of_the_library(name: str, tmp_path: Path) -> None:
    source = tiny_vision.write_embedding(tmp_path, name)
    tower = load(spec(source))
    assert tower.fields == (TEXT, PATCHES, GRIDS)
    told = tower.parameters["chat"]
    reference = SentenceTransformer(str(source), device="cpu")
    for prompt in ("", tiny_vision.PROMPTS["query"]):
        text = told["text"].replace("{instruction}", prompt or told["instruction"])
        rows = [row(tower, source, text.replace("{content}", written(item)), pictures(item)) for item in ITEMS]
        found = computed(tower, rows, EMBEDDING)
        messages: Any = [chat.message(item) for item in ITEMS]
        expected = np.concatenate([reference.encode([one], prompt=prompt or None) for one in messages])
        assert np.abs(unit(found) - expected).max() < 1e-6
        assert 1 - (unit(found) * expected).sum(1).min() < 1e-6


@pytest.mark.parametrize("name", tiny_vision.FAMILIES)
def test_scores_of_texts_and_images_are_those_of_the_library(name: str, tmp_path: Path) -> None:
    source = tiny_vision.write_reranker(tmp_path, name)
    tower = load(spec(source, "cross-encoder"))
    template: Mapping[str, Any] = tower.parameters["template"]
    rows = [
        row(
            tower,
            source,
            template["prefix"].replace("{query}", written(query)) + written(document) + template["suffix"],
            pictures(query, document),
        )
        for query, document in PAIRS
    ]
    found = computed(tower, rows, SCORE)
    reference = CrossEncoder(str(source), device="cpu", activation_fn=torch.nn.Identity())
    messages: Any = [chat.pair(query, document) for query, document in PAIRS]
    expected = np.concatenate([reference.predict([one]) for one in messages])
    assert np.abs(found[:, 0] - expected).max() < 1e-5


def test_items_are_what_the_library_makes_of_a_text_and_an_image(tmp_path: Path) -> None:
    """The shape of clients: an object with `text` and `image`."""
    source = tiny_vision.write_embedding(tmp_path)
    tower = load(spec(source))
    told = tower.parameters["chat"]
    text = told["text"].replace("{instruction}", told["instruction"]).replace("{content}", "a shell{image}")
    found = tower.reference(row(tower, source, text, PICTURES[:1]))[EMBEDDING][None].numpy()
    item: Any = {"text": "a shell", "image": PICTURES[0]}
    expected = SentenceTransformer(str(source), device="cpu").encode([item])
    assert np.abs(unit(found) - expected).max() < 1e-6


def test_parameters_say_how_images_are_read(tmp_path: Path) -> None:
    tower = load(spec(tiny_vision.write_embedding(tmp_path)))
    assert tower.parameters["image_processor"] == {
        "kind": "smart",
        "patch": 4,
        "merge": 2,
        "min_pixels": tiny_vision.SMALLEST,
        "max_pixels": tiny_vision.LARGEST,
        "resample": "bicubic",
    }
    assert tower.vision is not None
    assert (tower.parameters["image_token"], tower.parameters["image_merge"]) == (tower.vision.token, 2)
    assert tower.parameters["prompts"] == {"query": tiny_vision.PROMPTS["query"]}


def test_vectors_may_be_cut(tmp_path: Path) -> None:
    source = tiny_vision.write_embedding(tmp_path, truncate_dim=16)
    tower = load(replace(spec(source), dimensions=(8,)))
    assert tower.width == 16
    with pytest.raises(SourceError, match=r"\[tiny\] dimensions"):
        load(replace(spec(source), dimensions=(16,)))


def test_adapters_change_both_towers(tmp_path: Path) -> None:
    source = tiny_vision.write_embedding(tmp_path)
    (before,) = text_embedding.load(spec(source), source)
    tiny.adapt(tmp_path, source, ("retrieval",), ("q_proj", "qkv", "down_proj"))
    (tower,) = text_embedding.load(replace(spec(source), variants=("retrieval",)), source)
    told = tower.parameters["chat"]
    text = told["text"].replace("{instruction}", told["instruction"])
    rows = [row(tower, source, text.replace("{content}", written(item)), pictures(item)) for item in ITEMS]
    with torch.inference_mode():
        expected = unit(np.stack([tower.reference(one)[EMBEDDING].numpy() for one in rows]))
    assert np.abs(unit(computed(tower, rows, EMBEDDING)) - expected).max() < 1e-6
    assert np.abs(unit(computed(before, rows, EMBEDDING)) - expected).max() > 0.1


def test_only_torch_serves_them(tmp_path: Path) -> None:
    source = tiny_vision.write_embedding(tmp_path)
    with pytest.raises(SourceError, match=r'\[tiny\] backend: a model that reads images needs backend = "torch"'):
        load(replace(spec(source), backend="python"))


@pytest.mark.parametrize("setting", ["do_resize", "do_normalize"])
def test_an_image_processor_that_leaves_something_out_is_refused(setting: str, tmp_path: Path) -> None:
    source = tiny_vision.write_embedding(tmp_path)
    file = source / "processor_config.json"
    content = json.loads(file.read_text())
    content["image_processor"][setting] = False
    file.write_text(json.dumps(content))
    with pytest.raises(SourceError, match=f"its image processor has {setting} = false"):
        load(spec(source))


def test_settings_of_the_towers_that_nobody_reads_are_refused(tmp_path: Path) -> None:
    source = tiny_vision.write_embedding(tmp_path)
    file = source / "config.json"
    content = json.loads(file.read_text())
    content["vision_config"]["patch_gate"] = 3
    file.write_text(json.dumps(content))
    with pytest.raises(SourceError, match=r"vision_config\.patch_gate"):
        load(spec(source))


def test_a_table_of_texts_and_images_needs_room_for_an_image(tmp_path: Path) -> None:
    source = tiny_vision.write_embedding(tmp_path)
    tower = load(replace(spec(source), max_tokens=40))
    with pytest.raises(SourceError, match="40 tokens are too few for images"):
        tower.samples()


def test_prompts_need_a_place_in_the_chat_template(tmp_path: Path) -> None:
    source = tiny_vision.write_embedding(tmp_path)
    file = source / "chat_template.jinja"
    deaf = file.read_text().replace("for message in messages", "for message in messages if message.role == 'user'")
    file.write_text(deaf.replace("messages[0].role != 'system'", "true"))
    with pytest.raises(SourceError, match="has prompts, but its chat template has no place for an instruction"):
        load(spec(source))


POOLED = {
    kind: {"method": "forward", "method_output_name": "pooler_output", "format": "structured"}
    for kind in ("text", "image", "message")
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"processing_kwargs": {"image": {"do_resize": True}}}, "changes texts by processing_kwargs"),
        ({"query_length": 20}, "changes texts by query_length: 20"),
        ({"modality_config": POOLED}, "gives pooler_output, where vectors of tokens"),
    ],
)
def test_modules_that_read_otherwise_are_refused(changes: Mapping[str, Any], message: str, tmp_path: Path) -> None:
    source = tiny_vision.write_embedding(tmp_path)
    tiny.revise(source / "sentence_bert_config.json", **changes)
    with pytest.raises(SourceError, match=message):
        load(spec(source))


def test_a_reranker_may_have_a_template_of_its_table(tmp_path: Path) -> None:
    source = tiny_vision.write_reranker(tmp_path)
    table = replace(spec(source, "cross-encoder"), template="Query: {query}{|}\nDocument: {document}{|}\nAnswer:")
    tower = load(table)
    assert tower.parameters["template"]["suffix"] == "{|}\nAnswer:"
    rows = tower.samples()
    assert any(len(grids) for _, _, grids in rows)
    assert len({len(row[0]) for row in rows}) > 5
    with torch.inference_mode():
        assert torch.isfinite(tower.reference(rows[-1])[SCORE]).all()


def test_a_reranker_that_says_not_how_it_is_asked_is_refused(tmp_path: Path) -> None:
    source = tiny_vision.write_plain(tmp_path, "Qwen3-VL", "ForConditionalGeneration")
    with pytest.raises(SourceError, match="as a reranker has to be a folder that sentence-transformers saved"):
        load(spec(source, "cross-encoder"))


def test_a_plain_folder_embeds_by_the_pooling_of_its_table(tmp_path: Path) -> None:
    source = tiny_vision.write_plain(tmp_path, "Qwen3-VL", "ForConditionalGeneration")
    assert load(replace(spec(source), pooling="lasttoken")).fields == (TEXT, PATCHES, GRIDS)


def test_texts_alone_still_have_no_images(tmp_path: Path) -> None:
    """A model whose processor is a tokenizer."""
    tower = load(replace(spec(tiny.write_embedding(tmp_path))))
    assert tower.vision is None
    assert GRIDS not in tower.fields
