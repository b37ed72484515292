from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from export.graphs import trace
from export.manifest import ModelSpec
from export.tasks import text_embedding
from export.tower import Tower
from export.verification.choice import Trial, compare, cosines, spearman
from loadtest.tools import tiny


def trial(ranking: float, short: float, mixed: float) -> Trial:
    return Trial("bf16", "a processor", ranking, {"short": short, "mixed": mixed})


@pytest.mark.parametrize(
    ("measured", "takes_int8", "reason"),
    [
        (
            trial(0.99912, 1.424, 1.3),
            True,
            (
                "int8 is 1.42 times (short texts) and 1.30 times (mixed texts) as fast as bf16, with a rank correlation"
                " of 0.9991"
            ),
        ),
        (trial(0.995, 1.05, 1.05), True, "int8 is 1.05 times "),
        (
            trial(0.9949, 1.5, 1.5),
            False,
            "int8 ranks texts otherwise than bf16: their rank correlation is 0.9949, and has to be 0.995",
        ),
        (trial(float("nan"), 1.5, 1.5), False, "int8 ranks texts otherwise than bf16: "),
        (trial(-1, 0.5, 0.5), False, "int8 ranks texts otherwise than bf16: "),
        (
            trial(0.9999, 1.5, 1.02),
            False,
            (
                "int8 is only 1.50 times (short texts) and 1.02 times (mixed texts) as fast as bf16, and has to be 1.05"
                " times with each"
            ),
        ),
        (trial(0.9999, 1.04, 2), False, "int8 is only 1.04 times (short texts) and 2.00 times "),
    ],
)
def test_int8_is_taken_if_it_ranks_alike_and_is_faster_in_every_kind_of_batch(
    measured: Trial, takes_int8: bool, reason: str
) -> None:
    assert measured.takes_int8 is takes_int8
    assert measured.reason.startswith(reason)


def values(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=500).astype(np.float32)


def test_rank_correlation_is_spearmans() -> None:
    first = values(0)
    close = (first + values(1) / 20).astype(np.float32)
    assert spearman(first, close) == pytest.approx(spearmanr(first, close).statistic, abs=1e-9)
    assert spearman(first, first * first * first) == pytest.approx(1)
    assert spearman(first, -first) == pytest.approx(-1)


def test_values_that_are_none_have_no_rank() -> None:
    first = values(0)
    spoilt = first.copy()
    spoilt[3] = np.nan
    assert np.isnan(spearman(first, spoilt))
    assert np.isnan(spearman(spoilt, first))


def test_cosines_are_of_every_pair_once() -> None:
    vectors = np.array([[2, 0], [0, 3], [1, 1]], np.float32)
    np.testing.assert_allclose(cosines(vectors), [0, 0.5**0.5, 0.5**0.5], atol=1e-6)


def test_graph_ranks_as_it_does_itself(bert_tower: Tower, bert_graph: Path) -> None:
    found = compare(bert_tower, bert_graph, "fp32", bert_graph)
    assert found.exact == "fp32"
    assert found.ranking == pytest.approx(1, abs=1e-3)
    assert found.processor
    assert set(found.speedups) == {"short", "mixed"}
    assert min(found.speedups.values()) > 0


def test_graph_of_another_model_ranks_otherwise(bert_tower: Tower, bert_graph: Path, tmp_path: Path) -> None:
    source = tiny.write_embedding(tmp_path / "other", num_hidden_layers=1)
    (other,) = text_embedding.load(ModelSpec(name="other", task="text-embedding", source=str(source)), source)
    graph = tmp_path / "graph" / "model.onnx"
    graph.parent.mkdir()
    trace.trace(other, graph, ragged=True)
    found = compare(bert_tower, bert_graph, "fp32", graph)
    assert found.ranking < 0.99
    assert not found.takes_int8
