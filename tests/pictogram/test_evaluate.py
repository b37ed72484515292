import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pictogram import augment, evaluate, packages, tower
from pictogram.packages import STYLES, TEXTS

CARD = (tower.WEIGHTS / "README.md").read_text()
STORED = json.loads((tower.WEIGHTS / "evaluation.json").read_text())


def test_model_card_shows_the_stored_figures() -> None:
    assert f"{evaluate.BEGIN}\n{evaluate.table(STORED)}\n{evaluate.END}" in CARD


def test_model_card_credits_every_set_of_drawings() -> None:
    for style in STYLES.values():
        assert f"| `{style.package.name}` {style.package.version} |" in CARD
        assert style.licence in CARD
    assert f"`{TEXTS.name}` {TEXTS.version}" in CARD


def test_weights_are_small() -> None:
    assert (tower.WEIGHTS / "model.safetensors").stat().st_size < 8_000_000


def test_picture_is_the_drawing_on_white() -> None:
    drawing = np.zeros((72, 72, 4), np.uint8)
    drawing[20:50, 20:50] = (10, 20, 30, 255)
    image = evaluate.picture(drawing)
    assert image.size == (augment.SIDE, augment.SIDE)
    assert image.getpixel((32, 32)) == (10, 20, 30)
    assert image.getpixel((1, 1)) == (255, 255, 255)


def test_vectors_are_of_length_one() -> None:
    picture = evaluate.picture(np.full((72, 72, 4), 200, np.uint8))
    vectors = evaluate.embed([picture] * 3, tower.WEIGHTS)
    assert vectors.shape == (3, 384)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3))


@pytest.mark.skipif(
    not all((packages.FOLDER / package.archive).exists() for package in (TEXTS, *(s.package for s in STYLES.values()))),
    reason="the drawings are not here; python -m pictogram.evaluate fetches them with npm",
)
def test_stored_figures_are_those_of_the_weights() -> None:
    assert evaluate.evaluate(tower.WEIGHTS) == STORED


def test_archive_that_is_not_the_tables_is_refused(tmp_path: Path) -> None:
    (tmp_path / TEXTS.archive).write_bytes(b"something else")
    with pytest.raises(packages.DataError, match="is not what was trained on"):
        packages.read(TEXTS, "en/data.json", tmp_path)
