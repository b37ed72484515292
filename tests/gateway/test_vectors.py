from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sentence_transformers.util.quantization import quantize_embeddings

from gateway import vectors
from gateway.vectors import Floats

Packed = Literal["binary", "ubinary"]
FLOATS = arrays(np.float32, st.tuples(st.integers(1, 8), st.sampled_from([8, 64])), elements=st.floats(-1, 1, width=32))


def units(rows: int, dimensions: int) -> Floats:
    return vectors.normalize(np.random.default_rng(3).standard_normal((rows, dimensions)).astype(np.float32))


@pytest.mark.parametrize("kind", ["binary", "ubinary"])
@given(floats=FLOATS)
def test_binary_equals_sentence_transformers(kind: Packed, floats: Floats) -> None:
    expected = np.asarray(quantize_embeddings(floats, precision=kind))
    actual = vectors.QUANTISATIONS[kind](floats)
    assert actual.dtype == expected.dtype
    assert np.array_equal(actual, expected)


@pytest.mark.parametrize(("kind", "zero"), [("int8", 0), ("uint8", 128)])
def test_int8_and_uint8_keep_the_cosine(kind: str, zero: int) -> None:
    floats = units(500, 384)
    restored = vectors.QUANTISATIONS[kind](floats).astype(np.float32) - zero
    assert (vectors.normalize(restored) * floats).sum(1).min() > 0.9995


def test_quantization_is_independent_of_other_vectors() -> None:
    floats = units(10, 384)
    assert np.array_equal(vectors.int8(floats)[3:4], vectors.int8(floats[3:4]))


def test_values_out_of_range_are_clipped() -> None:
    spike = np.array([[1] + [0] * 383, [-1] + [0] * 383], np.float32)
    assert vectors.int8(spike)[:, 0].tolist() == [127, -127]
    assert vectors.uint8(spike)[:, 0].tolist() == [255, 1]


def test_zeros_stay_zeros_when_normalised() -> None:
    assert vectors.normalize(np.zeros((1, 4), np.float32)).tolist() == [[0, 0, 0, 0]]


TERMS = st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0.0, 0.5, 1.0, 2.0])), max_size=12)


@given(terms=TERMS)
def test_sparse_vector_has_the_largest_weight_of_each_term_in_order(terms: list[tuple[int, float]]) -> None:
    expected: dict[int, float] = {}
    for index, weight in terms:
        if weight:
            expected[index] = max(weight, expected.get(index, 0))
    indices = np.array([index for index, _ in terms], np.int32)
    vector = vectors.sparse(indices, np.array([weight for _, weight in terms], np.float32))
    assert dict(zip(vector.indices.tolist(), vector.weights.tolist(), strict=True)) == expected
    assert vector.indices.tolist() == sorted(expected)
    assert vector.indices.dtype == np.int32
    assert vector.weights.dtype == np.float32


@given(floats=arrays(np.float32, (4, 8), elements=st.floats(allow_nan=False, allow_infinity=False, width=32)))
def test_halves_are_those_of_torch(floats: Floats) -> None:
    given = torch.from_numpy(floats)
    assert np.array_equal(vectors.bfloat16(floats), given.bfloat16().view(torch.uint16).numpy())
    assert np.array_equal(vectors.float16(floats), given.half().numpy())
