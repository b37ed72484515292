"""The split of drawings into training, validation and held-out ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pictogram.concepts import Concept
from pictogram.drawings import Drawings
from pictogram.packages import HELD_OUT, STYLES

UNSEEN = 150
"""Concepts, no flags, none of whose drawings is trained on."""
VALIDATED = 200
"""Concepts that are trained on without the drawings of one artist."""
SEED = 1234


@dataclass(frozen=True, slots=True)
class Split:
    """Indices into the drawings, and concepts by what is known of them."""

    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    """Drawings of concepts that are trained on with other artists' drawings, to validate during training."""
    held_out: NDArray[np.int64]
    """All drawings of the style that is never trained on, for the reported figures."""
    seen: NDArray[np.bool_]
    """[concepts], whether a drawing in training shows it."""
    unseen: NDArray[np.bool_]
    """[concepts], whether it was chosen not to be trained on. Some are neither: no style but the held-out one draws
    them."""


def split(concepts: Sequence[Concept], drawings: Drawings) -> Split:
    """Split the drawings, always in the same way."""
    held_out = list(STYLES).index(HELD_OUT)
    artists = np.array([style.artist for style in STYLES.values()])[drawings.style]
    usable = drawings.style != held_out
    drawn = np.bincount(drawings.concept[usable], minlength=len(concepts))
    flag = np.array([concept.is_flag for concept in concepts])
    chance = np.random.default_rng(SEED)

    unseen = np.zeros(len(concepts), bool)
    unseen[chance.choice(np.flatnonzero((drawn >= 2) & ~flag), UNSEEN, replace=False)] = True
    artists_of = [np.unique(artists[usable & (drawings.concept == i)]) for i in range(len(concepts))]
    several = np.array([len(found) >= 2 for found in artists_of])
    kept = np.zeros(len(drawings.concept), bool)
    for i in chance.choice(np.flatnonzero(several & ~unseen), VALIDATED, replace=False):
        kept |= usable & (drawings.concept == i) & (artists == chance.choice(artists_of[i]))
    training = np.flatnonzero(usable & ~unseen[drawings.concept] & ~kept)
    seen = np.zeros(len(concepts), bool)
    seen[drawings.concept[training]] = True
    return Split(training, np.flatnonzero(kept), np.flatnonzero(drawings.style == held_out), seen, unseen)
