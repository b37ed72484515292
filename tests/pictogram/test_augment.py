import numpy as np
import torch
from PIL import Image

from pictogram import augment

DRAWINGS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (12, 72, 72, 4), np.uint8))


def test_plain_drawing_is_upright_on_white() -> None:
    square = np.zeros((1, 72, 72, 4), np.uint8)
    square[:, 18:54, 36:54] = (255, 0, 0, 255)
    (image,) = augment.plain(torch.from_numpy(square)) * augment.DEVIATION + augment.MEAN
    side = round(72 * 64 / 72 * augment.PLAIN_SCALE)
    small = Image.fromarray(square[0]).resize((side, side), Image.Resampling.BILINEAR)
    white = Image.new("RGB", (64, 64), "white")
    white.paste(small, ((64 - side) // 2,) * 2, small)
    expected = np.asarray(white).transpose(2, 0, 1) / 255
    assert np.abs(image.numpy() - expected).mean() < 0.02


def test_augmented_images_are_of_the_towers_size_and_range() -> None:
    torch.manual_seed(0)
    images = augment.augment(DRAWINGS)
    assert images.shape == (12, 3, augment.SIDE, augment.SIDE)
    assert images.min() >= -1
    assert images.max() <= 1


def test_no_two_augmentations_are_alike_but_the_seed_decides() -> None:
    torch.manual_seed(0)
    first, second = augment.augment(DRAWINGS), augment.augment(DRAWINGS)
    torch.manual_seed(0)
    assert torch.equal(augment.augment(DRAWINGS), first)
    assert not torch.equal(first, second)
