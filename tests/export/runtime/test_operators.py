from itertools import pairwise
from typing import Any

import pytest
import torch
from sentence_transformers.util import mean_maxsim
from torch import Tensor
from torch._library.custom_ops import CustomOpDef
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from export.runtime.operators import (
    LEAST_LOGITS,
    LOGITS,
    SLICE,
    _flash,
    _padded,
    attend,
    attend_visible,
    maxsim,
    splade,
)

WIDTH = 8
SCALE = 0.3
LENGTHS = (5, 0, 17, 1, 0, 9)
WINDOWS = [(-1, -1), (-1, 0), (3, 3), (4, 0), (0, -1)]


def starts_of(lengths: tuple[int, ...]) -> Tensor:
    return functional.pad(torch.tensor(lengths).cumsum(0), (1, 0)).int()


def heads(lengths: tuple[int, ...], shared: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(sum(lengths), number, WIDTH, generator=generator) for number in (4, 4 // shared, 4 // shared)
    )
    return query, key, value


def plain(query: Tensor, key: Tensor, value: Tensor, left: int, right: int, visible: int | None = None) -> Tensor:
    """Attention of one row by its definition."""
    distance = torch.arange(len(key))[None] - torch.arange(len(query))[:, None]
    seen = torch.ones_like(distance, dtype=torch.bool)
    if left >= 0:
        seen &= distance >= -left
    if right >= 0:
        seen &= distance <= right
    if visible is not None:
        seen[:, visible:] = False
    shared = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(shared, 1) for each in (key, value))
    scores = (torch.einsum("qhd,khd->hqk", query, key) * SCALE).masked_fill(~seen, -torch.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1).nan_to_num(), value)


@pytest.mark.parametrize("shared", [1, 2])
@pytest.mark.parametrize(("left", "right"), WINDOWS)
def test_every_row_attends_to_itself(left: int, right: int, shared: int) -> None:
    query, key, value = heads(LENGTHS, shared)
    starts = starts_of(LENGTHS)
    expected = torch.cat(
        [plain(query[a:b], key[a:b], value[a:b], left, right) for a, b in pairwise(starts.tolist()) if a < b]
    )
    for longest in (max(LENGTHS), 24):
        mixed = attend(query, key, value, starts, longest, SCALE, left, right)
        torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-6)
        lengths = starts.diff()
        padded = _padded(query, key, value, starts, lengths, longest, SCALE, left, right)
        torch.testing.assert_close(padded, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("left", "right"), WINDOWS)
def test_tokens_that_are_not_seen_attend_but_are_not_attended_to(left: int, right: int) -> None:
    query, key, value = heads(LENGTHS, shared=2)
    starts = starts_of(LENGTHS)
    visible = torch.tensor([2, 0, 17, 1, 0, 4], dtype=torch.int32)
    keys = torch.cat(
        [torch.arange(a, a + n) for a, n in zip(starts.tolist()[:-1], visible.tolist(), strict=True)]
    ).int()
    expected = torch.cat(
        [
            plain(query[a:b], key[a:b], value[a:b], left, right, n)
            for (a, b), n in zip(pairwise(starts.tolist()), visible.tolist(), strict=True)
            if a < b
        ]
    )
    mixed = attend_visible(query, key, value, starts, visible, keys, 24, SCALE, left, right)
    torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-6)


def test_value_of_one_row_that_is_not_finite_stays_in_it() -> None:
    query, key, value = heads(LENGTHS, shared=1)
    value[:5] = torch.nan
    starts = starts_of(LENGTHS)
    for mixed in (
        attend(query, key, value, starts, 24, SCALE, -1, -1),
        _padded(query, key, value, starts, starts.diff(), 24, SCALE, -1, -1),
    ):
        assert mixed[:5].isnan().all()
        assert mixed[5:].isfinite().all()


@pytest.mark.parametrize("lengths", [(3, 40, 5, 9, 0), (300, 7, 260, 513, 30)])
def test_maxsim_is_that_of_sentence_transformers(lengths: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    starts = starts_of(lengths)
    vectors = torch.randn(sum(lengths), 16, generator=generator)
    counted = torch.rand(sum(lengths), generator=generator) > 0.2
    rows = [
        functional.normalize(vectors[a:b][counted[a:b]], dim=-1) for a, b in pairwise(starts.tolist())
    ]  # two queries, two documents, the dummy
    queries = torch.tensor([1, 0], dtype=torch.int32)
    expected = [mean_maxsim([rows[1]], [rows[2]]).flatten(), mean_maxsim([rows[0]], [rows[3]]).flatten()]
    longest_query, longest = max(lengths[:2]), max(lengths)
    score = maxsim(vectors, counted, starts, queries, longest_query, longest)
    torch.testing.assert_close(score, torch.stack(expected), rtol=0, atol=1e-6)
    wider = maxsim(vectors, counted, starts, queries, longest_query + 300, longest + 300)
    torch.testing.assert_close(wider, score, rtol=0, atol=1e-6)


def test_document_of_which_no_token_counts_scores_a_number() -> None:
    starts = starts_of((2, 3, 0))
    counted = torch.tensor([True, True, False, False, False])
    score = maxsim(torch.randn(5, 16), counted, starts, torch.zeros(1, dtype=torch.int32), 8, 8)
    assert score.item() == -1


@pytest.mark.parametrize(("operator", "extra"), [(attend, ()), (attend_visible, (torch.arange(2).int(),) * 2)])
def test_operators_tell_their_shapes_to_tracers(operator: CustomOpDef, extra: tuple[Tensor, ...]) -> None:
    query, key, value = heads((4, 2), shared=2)
    given = (query, key, value, starts_of((4, 2)), *extra, 8, SCALE, -1, -1)
    torch.library.opcheck(operator, given, test_utils=("test_schema", "test_faketensor"))


class Largest(TorchDispatchMode):
    """Finds the largest tensor that operations make."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for each in tree_leaves(output):
            if isinstance(each, Tensor):
                self.elements = max(self.elements, each.numel())
        return output


@pytest.mark.parametrize("shared", [1, 2])
def test_flash_attention_makes_no_matrix_of_scores(shared: int) -> None:
    """Tensors without content can say that they are on a GPU that is not there."""
    tokens, width = 8192, 64
    with FakeTensorMode(), torch.no_grad(), Largest() as largest:
        query, key = (
            torch.empty(tokens, number, width, dtype=torch.float16, device="cuda:0") for number in (4, 4 // shared)
        )
        starts = torch.empty(3, dtype=torch.int32, device="cuda:0")
        mixed = _flash(query, key, key, starts, starts, tokens, SCALE, -1, 0)
    assert (mixed.shape, mixed.dtype, mixed.device.type) == (query.shape, query.dtype, "cuda")
    assert largest.elements == query.numel()


def test_maxsim_compares_a_slice_at_a_time() -> None:
    starts = starts_of((1500, 3000, 2000, 8))
    vectors = torch.randn(int(starts[-1]), 16)
    counted, queries = torch.ones(len(vectors), dtype=torch.bool), torch.zeros(2, dtype=torch.int32)
    with Largest() as largest:
        maxsim._init_fn(vectors, counted, starts, queries, 1500, 3000)  # of the operator, the mode sees nothing inside
    assert largest.elements == max(vectors.numel(), 2 * SLICE * SLICE)


@pytest.mark.parametrize("total", [False, True])
@pytest.mark.parametrize("logs", [1, 2])
def test_terms_are_those_of_each_row(logs: int, total: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(sum(LENGTHS) + 3, WIDTH, generator=generator)
    weight, bias = torch.randn(1000, WIDTH, generator=generator), torch.randn(1000, generator=generator)
    starts = starts_of((*LENGTHS, 3))  # the last row is nobody's
    whole = splade(hidden, weight, bias, starts, logs, total)
    for row, (begin, end) in enumerate(pairwise(starts.tolist()[:-1])):
        weights = (hidden[begin:end] @ weight.T + bias).relu()
        for _ in range(logs):
            weights = weights.log1p()
        expected = torch.zeros(1000)
        if begin < end:
            expected = weights.sum(0) if total else weights.amax(0)
        torch.testing.assert_close(whole[row], expected, atol=1e-5, rtol=1e-5)
    assert not whole[-1].any()
    half = splade(hidden, weight.half(), bias, starts, logs, total)
    torch.testing.assert_close(half, whole, atol=2e-2, rtol=2e-2)
    assert half.dtype == torch.float32


def test_terms_of_many_tokens_are_computed_in_slices_of_the_vocabulary() -> None:
    tokens, words = LOGITS // LEAST_LOGITS, 2 * LEAST_LOGITS + 9
    weight, bias = torch.arange(words)[:, None].float(), torch.ones(words)
    weights = splade(torch.ones(tokens, 1), weight, bias, starts_of((3, tokens - 4, 1)), 1, False)
    expected = torch.arange(1, words + 1).float().log1p()
    torch.testing.assert_close(weights, torch.stack([expected, expected, torch.zeros(words)]))
