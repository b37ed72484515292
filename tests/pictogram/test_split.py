import numpy as np
import pytest

from pictogram.concepts import Concept
from pictogram.drawings import Drawings
from pictogram.packages import HELD_OUT, STYLES
from pictogram.split import UNSEEN, VALIDATED, Split, split

COUNT = 600
CONCEPTS = [Concept(str(i), "flags" if i < 100 else "objects", str(i), (), (), (str(i),)) for i in range(COUNT)]
ARTISTS = np.array([style.artist for style in STYLES.values()])
HELD = list(STYLES).index(HELD_OUT)


@pytest.fixture(scope="module")
def drawings() -> Drawings:
    """Every style draws most concepts; the last few only the held-out one does."""
    pairs = [(c, s) for s in range(len(STYLES)) for c in range(COUNT) if s == HELD or ((c + s) % 5 and c < COUNT - 4)]
    concept, style = np.array(pairs).T
    return Drawings(np.zeros((len(pairs), 1, 1, 4), np.uint8), concept, style)


@pytest.fixture(scope="module")
def parts(drawings: Drawings) -> Split:
    return split(CONCEPTS, drawings)


def test_held_out_style_is_in_nothing_else(drawings: Drawings, parts: Split) -> None:
    assert set(drawings.style[parts.held_out]) == {HELD}
    assert HELD not in {*drawings.style[parts.training], *drawings.style[parts.validation]}
    assert len(parts.held_out) == COUNT


def test_unseen_concepts_are_not_trained_on_and_no_flags(drawings: Drawings, parts: Split) -> None:
    assert parts.unseen.sum() == UNSEEN
    assert not parts.unseen[:100].any()
    assert not parts.unseen[drawings.concept[parts.training]].any()
    assert not (parts.seen & parts.unseen).any()
    assert not (parts.seen | parts.unseen)[-4:].any()


def test_validated_concepts_are_taught_by_other_artists_only(drawings: Drawings, parts: Split) -> None:
    concepts = np.unique(drawings.concept[parts.validation])
    assert len(concepts) == VALIDATED
    for i in concepts:
        kept, trained = (
            ARTISTS[drawings.style[part][drawings.concept[part] == i]] for part in (parts.validation, parts.training)
        )
        assert len(set(kept)) == 1
        assert trained.size
        assert kept[0] not in trained


def test_split_is_always_the_same(drawings: Drawings, parts: Split) -> None:
    again = split(CONCEPTS, drawings)
    assert np.array_equal(again.training, parts.training)
    assert np.array_equal(again.validation, parts.validation)
