"""Captions of concepts, and their vectors from the text tower, which is not trained."""

import random
import re
from collections.abc import Sequence

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from export.manifest import load
from export.sources.resolve import resolve
from pictogram.concepts import Concept

TEXT_TOWER = "all-minilm-l6-v2"
"""The table of the manifest whose space the images come into."""
TEMPLATES = (
    "{}",
    "a picture of a {}",
    "an emoji of {}",
    "a drawing of a {}",
    "an icon of {}",
    "{} emoji",
    "this is a {}",
    "a small cartoon image of {}",
)
SHORTCODES = 4
TAG_LISTS = 8
TAG_SENTENCES = ("{}, {}", "a {} with {}", "picture of {}: {}", "{} and {}")
WEIGHTS = (1.0,) * len(TEMPLATES) + (0.5,) * (SHORTCODES + TAG_LISTS + len(TAG_SENTENCES))
"""The weight of each kind of caption; the templates hold the label itself."""


def name(concept: Concept) -> str:
    """A label as people write it in a sentence."""
    label = concept.label
    for prefix, written in (("flag: ", "flag of "), ("keycap: ", "keycap ")):
        if label.startswith(prefix):
            return written + label.removeprefix(prefix)
    return label.replace(": ", " with ").replace("“", "").replace("”", "")


def write(concept: Concept, chance: random.Random) -> list[str]:
    """As many captions as there are weights; the first is the name alone."""
    called = name(concept)
    written = [template.format(called) for template in TEMPLATES]
    codes = [" ".join(text.split()) for text in concept.shortcodes]
    codes = [text for text in codes if len(text) > 2 and text.lower() != called.lower()] or [called]
    written += [codes[i] if i < len(codes) else chance.choice(codes) for i in range(SHORTCODES)]
    tags = [re.sub(r"\s+", " ", tag) for tag in concept.tags if len(tag) > 1] or [called]
    for _ in range(TAG_LISTS):
        size = chance.choice((1, 2, 2, 3, 3, 4))
        written.append(", ".join(chance.sample(tags, min(size, len(tags)))))
    for _ in TAG_SENTENCES:
        written.append(chance.choice(TAG_SENTENCES).format(called, chance.choice(tags)))
    return written


def encoder() -> SentenceTransformer:
    """The text tower, as sentence-transformers reads it."""
    folder = resolve(load()[TEXT_TOWER]).folder
    tower: SentenceTransformer = SentenceTransformer(str(folder), device="cpu")
    return tower


def encode(texts: Sequence[str], tower: SentenceTransformer) -> Tensor:
    """Unit vectors, float32 [n, d], of texts; those that repeat are computed once."""
    distinct = sorted(set(texts), key=lambda text: (len(text), text))
    vectors = tower.encode(distinct, batch_size=256, normalize_embeddings=True, show_progress_bar=False)
    place = {text: i for i, text in enumerate(distinct)}
    return torch.from_numpy(np.asarray(vectors)[[place[text] for text in texts]])


def encode_all(concepts: Sequence[Concept], seed: int) -> Tensor:
    """The captions of every concept as unit vectors: float32 [concepts, captions, d]."""
    chance = random.Random(seed)  # noqa: S311 - captions are no secret
    written = [write(concept, chance) for concept in concepts]
    vectors = encode([text for texts in written for text in texts], encoder())
    return vectors.reshape(len(concepts), len(WEIGHTS), -1)


def centres(vectors: Tensor) -> Tensor:
    """The weighted mean of each concept's captions, of length 1: [concepts, captions, d] to [concepts, d]."""
    mean = (vectors * torch.tensor(WEIGHTS)[None, :, None]).sum(1)
    return torch.nn.functional.normalize(mean, dim=-1)
