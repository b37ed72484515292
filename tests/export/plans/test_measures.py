import numpy as np
from numpy.testing import assert_allclose

from export.plans.measures import cosine_errors, score_errors


def test_cosine_error_is_of_the_direction_alone() -> None:
    expected = np.array([[1, 0], [1, 0], [1, 1]], np.float32)
    actual = np.array([[5, 0], [0, 2], [1, 0]], np.float32)
    assert_allclose(cosine_errors(expected, actual), [0, 1, 1 - 0.5**0.5], atol=1e-6)


def test_score_error_is_in_proportion_to_scores_above_one() -> None:
    expected = np.array([[0.5], [10], [-10]], np.float32)
    assert_allclose(score_errors(expected, expected + np.float32(0.1)), [[0.1], [0.01], [0.01]], atol=1e-6)


def test_error_of_what_is_no_number_is_none() -> None:
    nan = np.array([[np.nan, 1]], np.float32)
    assert np.isnan(cosine_errors(np.ones_like(nan), nan)).all()
    assert np.isnan(score_errors(np.ones_like(nan), nan)).any()
