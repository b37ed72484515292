import random

import pytest
import torch

from pictogram import captions
from pictogram.concepts import Concept


def concept(label: str, tags: tuple[str, ...] = (), shortcodes: tuple[str, ...] = ()) -> Concept:
    return Concept(label, "objects", "1f41a", tags, shortcodes, ("x",))


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("flag: Italy", "flag of Italy"),
        ("keycap: 7", "keycap 7"),
        ("man: beard", "man with beard"),
        ("Japanese “here” button", "Japanese here button"),
    ],
)
def test_label_is_written_as_in_a_sentence(label: str, name: str) -> None:
    assert captions.name(concept(label)) == name


def test_captions_are_as_many_as_weights_and_begin_with_the_name() -> None:
    written = captions.write(concept("spiral shell", ("beach", "sea"), ("shell", "spiral shell")), random.Random(0))
    assert len(written) == len(captions.WEIGHTS)
    assert written[:2] == ["spiral shell", "a picture of a spiral shell"]
    assert written[8:12] == ["shell"] * 4  # the other shortcode is the name again
    assert all(set(text.split(", ")) <= {"beach", "sea"} for text in written[12:20])
    assert all("spiral shell" in text for text in written[20:])


def test_concept_without_tags_and_shortcodes_goes_by_its_name() -> None:
    assert all("conch" in text for text in captions.write(concept("conch"), random.Random(0)))


def test_same_seed_writes_the_same() -> None:
    given = concept("spiral shell", ("beach", "sea", "snail"), ("a shell", "the shell"))
    assert captions.write(given, random.Random(1)) == captions.write(given, random.Random(1))


def test_centre_is_the_weighted_mean_of_length_one() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(3, len(captions.WEIGHTS), 5), dim=-1)
    found = captions.centres(vectors)
    expected = sum(weight * vectors[0, i] for i, weight in enumerate(captions.WEIGHTS))
    assert isinstance(expected, torch.Tensor)
    torch.testing.assert_close(found[0], expected / expected.norm())
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3))


def test_texts_that_repeat_have_the_same_vector() -> None:
    vectors = captions.encode(["a shell", "brass", "a shell"], captions.encoder())
    assert torch.equal(vectors[0], vectors[2])
    assert not torch.equal(vectors[0], vectors[1])
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3))
