import numpy as np
import pytest

from gateway.scores import ACTIVATIONS

LOGITS = np.array([[0.0, 1.0, -2.0], [5.0, 5.0, 5.0]], np.float32)


def test_sigmoid_is_elementwise() -> None:
    assert ACTIVATIONS["sigmoid"](LOGITS) == pytest.approx(1 / (1 + np.exp(-LOGITS.astype(float))))


def test_softmax_is_per_row() -> None:
    powers = np.exp(LOGITS.astype(float))
    assert ACTIVATIONS["softmax"](LOGITS) == pytest.approx(powers / powers.sum(1, keepdims=True))


def test_none_returns_the_logits() -> None:
    assert ACTIVATIONS["none"](LOGITS).tolist() == LOGITS.tolist()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_large_logits_do_not_overflow(name: str) -> None:
    most = np.finfo(np.float32).max
    assert np.isfinite(ACTIVATIONS[name](np.array([[most, -most], [-most, -most]], np.float32))).all()


def test_scores_near_one_still_differ() -> None:
    low, high = ACTIVATIONS["sigmoid"](np.array([[25.0], [26.0]], np.float32))[:, 0]
    assert low < high
