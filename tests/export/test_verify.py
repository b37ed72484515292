import math

import numpy as np
import pytest

from export import tower, verify
from export.manifest import ModelSpec
from export.source import resolve
from export.verify import COSINE, ERROR, Parity


@pytest.mark.parametrize(
    ("measure", "value", "tolerance", "holds"),
    [
        (COSINE, 0.99991, 0.9999, True),
        (COSINE, 0.99989, 0.9999, False),
        (ERROR, 0.0009, 0.001, True),
        (ERROR, 0.0011, 0.001, False),
        (COSINE, math.nan, 0.9999, False),
        (ERROR, math.nan, 0.001, False),
    ],
)
def test_parity_holds_within_its_tolerance_only(measure: str, value: float, tolerance: float, holds: bool) -> None:
    assert Parity("f32", "alone", measure, value, tolerance).holds is holds


def test_rows_reach_from_the_shortest_to_the_limit(minilm: ModelSpec) -> None:
    text_tower = tower.load(minilm, resolve(minilm).folder)
    lengths = [len(ids) for (ids,) in verify.COMPARISONS["text-embedding"].rows(text_tower)]
    assert (lengths[0], lengths[-1]) == (3, 256)
    assert lengths == sorted(set(lengths))


def test_sample_rows_are_whole_texts_of_the_model(minilm: ModelSpec) -> None:
    text_tower = tower.load(minilm, resolve(minilm).folder)
    ids = verify.sample_ids(text_tower, start=2, length=90)
    assert (ids.dtype, len(ids)) == (np.dtype(np.int64), 90)
    first, *words, last = ids.tolist()
    assert (first, last) == (101, 102)
    assert len(set(words)) > 30
