import json
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from PIL import Image
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
)

from export.errors import SourceError
from export.manifest import ModelSpec
from export.runtime.contract import IMAGE_EMBEDDING, PIXELS, TEXT, TEXT_EMBEDDING, write_parameters
from export.tasks import image_text
from export.tower import Tower
from loadtest.tools import tiny
from tests.export.outputs import main

TEXTS = ["a shell", "A conch is a sea snail, and its shell a trumpet.", "brass"]
IMAGES = np.random.default_rng(1).integers(0, 256, (3, tiny.IMAGE, tiny.IMAGE, 3), np.uint8)
"""[N, H, W, 3], already of the size that the models see."""


def spec(source: Path, image_source: Path | None = None) -> ModelSpec:
    return ModelSpec(
        name="tiny",
        task="image-text",
        source=str(source),
        image_source=None if image_source is None else str(image_source),
    )


def load(given: ModelSpec) -> tuple[Tower, Tower]:
    image_folder = Path(given.image_source) if given.image_source else None
    text, image = image_text.load(given, Path(given.source), image_folder)
    return text, image


def of_texts(tower: Tower) -> Tensor:
    given = tiny.rows(tower, *TEXTS)
    with torch.inference_mode():
        vectors = main(tower, tower.head(given))
        alone = [
            main(tower, tower.reference((ids[:n].numpy(),))) for ids, n in zip(given.ids, given.length, strict=True)
        ]
    torch.testing.assert_close(vectors, torch.stack(alone), atol=1e-5, rtol=1e-5)
    return vectors


def of_images(tower: Tower) -> Tensor:
    pixels = np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2))
    with torch.inference_mode():
        vectors = main(tower, tower.head(torch.from_numpy(pixels)))
        alone = [main(tower, tower.reference((image,))) for image in pixels]
    torch.testing.assert_close(vectors, torch.stack(alone), atol=1e-5, rtol=1e-5)
    return vectors


def processed(source: Path) -> dict[str, Tensor]:
    processor = AutoImageProcessor.from_pretrained(source, use_fast=False)
    return dict(processor(images=[Image.fromarray(image) for image in IMAGES], return_tensors="pt"))


@pytest.mark.parametrize(("name", "padding"), [("CLIP", False), ("SigLIP", "max_length"), ("SigLIP 2", "max_length")])
def test_both_towers_of_a_checkpoint_give_its_features(name: str, padding: bool | str, tmp_path: Path) -> None:
    source = tiny.write_image_text(tmp_path, name)
    text, image = load(spec(source))
    model, tokenizer = AutoModel.from_pretrained(source).eval(), AutoTokenizer.from_pretrained(source)
    # SigLIP is only ever shown texts filled up to its limit.
    tokens = [tokenizer(text, padding=padding, max_length=64, return_tensors="pt")["input_ids"] for text in TEXTS]
    with torch.inference_mode():
        texts = torch.cat([model.get_text_features(input_ids=ids).pooler_output for ids in tokens])
        images = model.get_image_features(**processed(source)).pooler_output
    torch.testing.assert_close(of_texts(text), texts, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(of_images(image), images, atol=1e-5, rtol=1e-5)
    assert text.width == image.width == texts.shape[1]


def test_chinese_clip_projects_the_first_token(tmp_path: Path) -> None:
    source = tiny.write_image_text(tmp_path, "ChineseCLIP")
    text, image = load(spec(source))
    model, tokenizer = AutoModel.from_pretrained(source).eval(), AutoTokenizer.from_pretrained(source)
    with torch.inference_mode():
        hidden = [model.text_model(**tokenizer(text, return_tensors="pt")).last_hidden_state[:, 0] for text in TEXTS]
        texts, images = (
            model.text_projection(torch.cat(hidden)),
            model.get_image_features(**processed(source)).pooler_output,
        )
    torch.testing.assert_close(of_texts(text), texts, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(of_images(image), images, atol=1e-5, rtol=1e-5)


def test_one_table_becomes_two_models_of_one_public_name(tmp_path: Path) -> None:
    text, image = load(spec(tiny.write_image_text(tmp_path, "CLIP")))
    assert (text.name, text.role, text.fields) == ("tiny-text", TEXT_EMBEDDING, (TEXT,))
    assert (image.name, image.role, image.fields) == ("tiny-image", IMAGE_EMBEDDING, (PIXELS,))
    assert (text.parameters["name"], image.parameters["name"]) == ("tiny", "tiny")
    assert (text.vocabulary and text.vocabulary.max_tokens, image.vocabulary) == (64, None)


SIZE = {"image_height": "32", "image_width": "32"}


@pytest.mark.parametrize(
    ("name", "resizing"),
    [
        ("CLIP", {"image_resize": "shortest_edge=32", "image_resample": "bicubic"}),
        ("ChineseCLIP", {"image_resize": "height=32,width=32", "image_resample": "bicubic"}),
        ("SigLIP", {"image_resize": "height=32,width=32", "image_resample": "bicubic"}),
        # Of any shape, in the original: here they fill the square of positions that it was trained on.
        ("SigLIP 2", {"image_resize": "height=32,width=32", "image_resample": "bilinear"}),
    ],
)
def test_gateway_is_told_how_to_prepare_an_image(name: str, resizing: dict[str, str], tmp_path: Path) -> None:
    _, image = load(spec(tiny.write_image_text(tmp_path, name)))
    assert write_parameters(image.parameters) == SIZE | resizing | {"name": "tiny", "image_patches": "16"}


def test_cropped_images_keep_the_size_before_the_crop(tmp_path: Path) -> None:
    source = tiny.write_image_text(tmp_path, "CLIP")
    file = source / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"size": {"shortest_edge": 40}, "resample": 2}))
    _, image = load(spec(source))
    assert write_parameters(image.parameters) == SIZE | {
        "image_resize": "shortest_edge=40",
        "image_resample": "bilinear",
        "image_patches": "16",
        "name": "tiny",
    }
    assert {row[0].shape for row in image.samples()} == {(3, 32, 32)}


def test_processor_that_does_not_normalize_leaves_pixels_as_they_are(tmp_path: Path) -> None:
    source = tiny.write_image_text(tmp_path, "CLIP")
    file = source / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"do_normalize": False, "do_rescale": False}))
    _, image = load(spec(source))
    model = AutoModel.from_pretrained(source).eval()
    with torch.inference_mode():
        pixels = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).astype(np.float32))
        expected = model.get_image_features(pixels).pooler_output
    torch.testing.assert_close(of_images(image), expected, atol=1e-4, rtol=1e-4)


def test_two_folders_become_the_two_towers(tmp_path: Path) -> None:
    words, pictures = tiny.write_embedding(tmp_path / "text"), tiny.write_image_classifier(tmp_path / "image")
    text, image = load(spec(words, pictures))
    assert (text.name, image.name, text.width, image.width) == ("tiny-text", "tiny-image", 32, 32)
    model = ViTForImageClassification.from_pretrained(pictures).eval()
    with torch.inference_mode():
        expected = model(**processed(pictures)).logits
    torch.testing.assert_close(of_images(image), expected, atol=1e-5, rtol=1e-5)


def test_image_folder_without_a_classifier_gives_its_first_token(tmp_path: Path) -> None:
    words, pictures = tiny.write_embedding(tmp_path / "text"), tiny.write_image_classifier(tmp_path / "image")
    model = ViTModel(ViTConfig(**tiny.VISION)).eval()
    tiny.stir(model)
    model.save_pretrained(pictures)
    _, image = load(spec(words, pictures))
    with torch.inference_mode():
        expected = model(**processed(pictures)).last_hidden_state[:, 0]
    torch.testing.assert_close(of_images(image), expected, atol=1e-5, rtol=1e-5)


def test_towers_of_different_width_are_refused(tmp_path: Path) -> None:
    words = tiny.write_embedding(tmp_path / "text")
    pictures = tiny.write_image_classifier(tmp_path / "image", dimensions=8)
    with pytest.raises(SourceError, match=r"^\[tiny\] image_source: has 8 dimensions, but source has 32$"):
        load(spec(words, pictures))


def test_checkpoint_of_another_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"a checkpoint of type 'bert' is not one of chinese_clip, clip, siglip, sig"):
        load(spec(tiny.write_plain(tmp_path)))


def without_one_size(folder: Path) -> Path:
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"size": {"shortest_edge": 32}}))
    return folder


def test_images_that_are_not_brought_to_one_size_are_refused(tmp_path: Path) -> None:
    source = without_one_size(tiny.write_image_text(tmp_path, "ChineseCLIP"))  # which crops nothing
    with pytest.raises(
        SourceError, match=r"^\[tiny\] source: its image processor does not produce images of one size: "
    ):
        load(spec(source))


@pytest.mark.parametrize(
    "change",
    [{"size": {"shortest_edge": 24}}, {"do_resize": False}, {"size": {"shortest_edge": 32, "longest_edge": 64}}],
)
def test_images_that_are_not_resized_and_cut_are_refused(change: dict[str, object], tmp_path: Path) -> None:
    source = tiny.write_image_text(tmp_path, "CLIP")
    file = source / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(SourceError, match=r"^\[tiny\] source: its image processor resizes to .*, and crops to "):
        load(spec(source))


def test_cells_of_a_convolutional_network_are_its_patches(tmp_path: Path) -> None:
    words, pictures = tiny.write_embedding(tmp_path / "text"), tmp_path / "image"
    network = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic")
    network.num_labels = 32
    ResNetForImageClassification(network).save_pretrained(pictures)
    ViTImageProcessor(size={"height": 32, "width": 64}).save_pretrained(pictures)
    _, image = load(spec(words, pictures))
    assert image.parameters["image_patches"] == (32 // 8) * (64 // 8)


@pytest.mark.parametrize("damage", ["size", "config"])
def test_errors_of_the_image_folder_name_its_key(damage: str, tmp_path: Path) -> None:
    words, pictures = tiny.write_embedding(tmp_path / "text"), tiny.write_image_classifier(tmp_path / "image")
    if damage == "size":
        without_one_size(pictures)
    else:
        (pictures / "config.json").write_text('{"model_type": "no-such-architecture"}')
    with pytest.raises(SourceError, match=r"^\[tiny\] image_source: "):
        load(spec(words, pictures))


def test_sizes_that_a_checkpoint_does_not_have_are_refused(tmp_path: Path) -> None:
    given = replace(spec(tiny.write_image_text(tmp_path, "CLIP")), dimensions=(24,))
    with pytest.raises(SourceError, match=r"dimensions: \[24\], but the model has 24$"):
        load(given)


def test_texts_filled_up_at_the_front_are_refused(tmp_path: Path) -> None:
    source = tiny.write_image_text(tmp_path, "SigLIP 2")
    file = source / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"padding_side": "left"}))
    with pytest.raises(SourceError, match=r"^\[tiny\] source: its tokenizer pads on the left"):
        load(spec(source))
