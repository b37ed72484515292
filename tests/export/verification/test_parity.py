import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from export.errors import ParityError
from export.manifest import PRECISIONS, Backend, ModelSpec
from export.packing.memory import PROOF_BYTES, Attention
from export.plans.measures import SPARSE, Tolerance, Vectors
from export.runtime.contract import (
    CLASSIFIER,
    CROSS_ENCODER,
    EMBEDDING,
    LATE_INTERACTION,
    QUERY_VECTORS,
    SCORE,
    TEXT_EMBEDDING,
    TOKEN_VECTORS,
    Role,
    Row,
)
from export.tower import Tower
from export.verification.parity import cut, verify
from export.verification.tolerances import Parity, Speed, measure


@pytest.mark.parametrize(
    ("worst", "mean", "holds"),
    [
        (0.01, 0.002, True),
        (0.011, 0.002, False),
        (0.01, 0.0021, False),
        (math.nan, 0.001, False),
        (0.001, math.nan, False),
    ],
)
def test_parity_holds_within_both_tolerances_only(worst: float, mean: float, holds: bool) -> None:
    parity = Parity("tiny", "fp32", "alone", "embedding", "cosine", worst, mean, Tolerance(worst=0.01, mean=0.002))
    assert parity.holds is holds


def vectors(*rows: list[float]) -> Vectors:
    return np.array(rows, np.float32)


def test_vectors_are_held_against_each_other_by_cosine() -> None:
    errors = measure(TEXT_EMBEDDING, EMBEDDING).errors(
        vectors([3, 4], [1, 0], [1, 0]), vectors([6, 8], [0, 2], [-1, 0])
    )
    np.testing.assert_allclose(errors, [0, 1, 2], atol=1e-6)


@pytest.mark.parametrize("role", [CROSS_ENCODER, CLASSIFIER, LATE_INTERACTION])
def test_scores_are_held_against_each_other_by_difference_and_large_ones_in_proportion(role: Role) -> None:
    errors = measure(role, SCORE).errors(vectors([0.5], [-8.0]), vectors([0.4], [-7.0]))
    np.testing.assert_allclose(errors, [[0.1], [0.125]], rtol=1e-5)


@pytest.mark.parametrize(
    ("role", "output"),
    [
        (CROSS_ENCODER, SCORE),
        (CLASSIFIER, SCORE),
        (LATE_INTERACTION, SCORE),
        *((LATE_INTERACTION, output) for output in (EMBEDDING, SPARSE, TOKEN_VECTORS, QUERY_VECTORS)),
    ],
)
def test_every_output_has_a_tolerance_for_every_precision_it_may_be_served_in(role: Role, output: str) -> None:
    offered = {precision for backend in get_args(Backend) for precision in PRECISIONS[backend]} - {"int8"}
    assert offered <= set(measure(role, output).tolerances)


def test_right_graph_holds_alone_in_threes_and_together_and_its_speed_is_told(
    bert: ModelSpec, bert_tower: Tower, bert_graph: Path
) -> None:
    *parities, speed = verify(msgspec.structs.replace(bert, precision="fp32"), bert_tower, bert_graph)
    assert [(one.batches, one.output) for one in parities if isinstance(one, Parity)] == [
        (batches, output) for batches in ("alone", "in threes", "together") for output in ("embedding", "tokens")
    ]
    assert all(one.holds and one.model == "tiny" and one.worst < 1e-5 for one in parities if isinstance(one, Parity))
    assert isinstance(speed, Speed)
    assert (speed.precision, speed.per_second > 0) == ("fp32", True)


def test_every_precision_that_may_serve_is_compared_once(bert: ModelSpec, bert_tower: Tower, bert_graph: Path) -> None:
    found = [one.precision for one in verify(bert, bert_tower, bert_graph) if isinstance(one, Speed)]
    assert found[0] == "fp32"
    assert found[1:] in ([], ["bf16"])  # which some processors do not compute in


M3 = Attention(cell_bytes=16 * 12, slices=8)
"""Of bge-m3's 16 heads and 8,192 tokens."""


@given(st.lists(st.integers(1, 8192), min_size=1, max_size=40))
def test_batches_hold_every_row_once_and_no_more_scores_than_there_is_memory_for(lengths: list[int]) -> None:
    batches = cut(M3, range(len(lengths)), lengths)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        most = M3.rows(max(lengths[row] for row in batch), PROOF_BYTES)
        assert most is not None
        assert len(batch) <= most


def test_longest_row_runs_with_a_short_one() -> None:
    lengths = [3, 9, 90, 700, 3000, 6000, 8192]
    batches = cut(M3, range(len(lengths)), lengths)
    assert [[lengths[row] for row in batch] for batch in batches] == [[8192, 3], [6000, 9, 90], [3000, 700]]


def test_rows_without_scores_run_together() -> None:
    assert cut(Attention(), [4, 1, 2], [5, 7, 6, 8, 9]) == [[4, 2, 1]]


def reversed_row(tower: Tower, row: Row) -> Mapping[str, Tensor]:
    (ids,) = row
    return tower.reference((ids[::-1].copy(),))


def test_graph_of_another_order_of_tokens_is_refused_with_its_numbers(
    bert: ModelSpec, bert_tower: Tower, bert_graph: Path
) -> None:
    wrong = replace(bert_tower, reference=lambda row: reversed_row(bert_tower, row))
    with pytest.raises(
        ParityError,
        match=r"^verify tiny in fp32, rows alone: embedding: cosine error 0\.\d+ \(largest; limit 0\.0001\)"
        r" and 0\.\d+ \(mean; limit 0\.0001\)$",
    ):
        list(verify(bert, wrong, bert_graph))


def test_one_wrong_row_of_many_is_enough(bert: ModelSpec, bert_tower: Tower, bert_graph: Path) -> None:
    longest = len(bert_tower.samples()[-1][0])

    def wrong_at_the_limit(row: Row) -> Mapping[str, Tensor]:
        return reversed_row(bert_tower, row) if len(row[0]) == longest else bert_tower.reference(row)

    with pytest.raises(ParityError, match=r"\(largest; limit "):
        list(verify(bert, replace(bert_tower, reference=wrong_at_the_limit), bert_graph))


def test_numbers_that_are_none_are_refused(bert: ModelSpec, bert_tower: Tower, bert_graph: Path) -> None:
    for output in ("embedding", "tokens"):

        def spoilt(row: Row, output: str = output) -> Mapping[str, Tensor]:
            found = dict(bert_tower.reference(row))
            return found | {output: torch.full_like(found[output], torch.nan)}

        with pytest.raises(ParityError, match=rf"{output}: .*cosine error nan \(largest"):
            list(verify(bert, replace(bert_tower, reference=spoilt), bert_graph))
