import torch

from pictogram.ranking import Found, image_to_text, text_to_image

TEXTS = torch.eye(4)


def test_place_of_the_own_text_is_counted_from_one() -> None:
    images = torch.tensor([[1.0, 0, 0, 0], [0.9, 0.5, 0, 0], [0.3, 0.4, 0.2, 0.5]])
    assert image_to_text(images, TEXTS, torch.tensor([0, 1, 2])).tolist() == [1, 2, 4]


def test_place_of_the_own_image_is_counted_from_one() -> None:
    images = torch.tensor([[1.0, 0, 0, 0], [0.9, 0.5, 0, 0], [0, 0.6, 0.2, 0]])
    assert text_to_image(images, TEXTS, torch.tensor([0, 1, 2])).tolist() == [1, 2, 1]


def test_shares_are_in_per_cent() -> None:
    found = Found.at(torch.tensor([1, 1, 3, 7, 90, 5, 6, 11]))
    assert (found.top_1, found.top_5, found.top_10) == (25.0, 50.0, 75.0)
    assert found.median == 5
