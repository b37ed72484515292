from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, Gemma2Config
from transformers.masking_utils import (
    bidirectional_mask_function,
    causal_mask_function,
    sdpa_mask,
    sliding_window_bidirectional_mask_function,
    sliding_window_causal_mask_function,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gemma2.modeling_gemma2 import Gemma2Attention, eager_attention_forward

from export.packing.attention import RowAttention, Sight, in_interface
from export.packing.layout import Layout
from loadtest.tools import tiny

LENGTHS = (2, 9, 1, 5)
LONGEST = max(LENGTHS)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_packing_undoes_padding(lengths: list[int]) -> None:
    layout = Layout.of(torch.tensor(lengths))
    packed = torch.arange(2 * sum(lengths)).reshape(-1, 2)
    padded = layout.pad(packed)
    assert padded.shape == (len(lengths), max(lengths), 2)
    assert torch.equal(layout.pack(padded), packed)


def test_layout_puts_each_token_in_its_row_and_place() -> None:
    layout = Layout.of(torch.tensor([2, 1, 3]))
    assert layout.start.tolist() == [0, 2, 3]
    assert layout.position.tolist() == [0, 1, 0, 0, 1, 2]
    # Where there is no token the row's last one stands, so that rows have nothing of each other.
    assert layout.pad(torch.tensor([10, 11, 20, 30, 31, 32])).tolist() == [[10, 11, 11], [20, 20, 20], [30, 31, 32]]


@pytest.mark.parametrize(
    ("sight", "by_transformers"),
    [
        (Sight(causal=True), causal_mask_function),
        (Sight(causal=True, window=4), sliding_window_causal_mask_function(4)),
        (Sight(), bidirectional_mask_function),
        (Sight(window=4), sliding_window_bidirectional_mask_function(3)),
    ],
)
def test_masks_are_those_of_transformers(sight: Sight, by_transformers: Callable[..., Tensor]) -> None:
    attended = torch.arange(LONGEST)[None] < torch.tensor(LENGTHS)[:, None]
    expected = sdpa_mask(
        batch_size=len(LENGTHS),
        q_length=LONGEST,
        kv_length=LONGEST,
        mask_function=by_transformers,
        attention_mask=attended,
        allow_is_causal_skip=False,
    )
    assert expected is not None
    assert torch.equal(sight.mask(attended).expand(-1, -1, LONGEST, -1), expected)


def heads(count: int, tokens: int) -> Tensor:
    return torch.randn(1, count, tokens, 8, generator=torch.Generator().manual_seed(count * tokens))


def filled(packed: Tensor) -> Tensor:
    """[1, H, T, d] to [N, H, L, d], with numbers behind the rows that would be seen."""
    return torch.cat(
        [functional.pad(row, (0, 0, 0, LONGEST - row.shape[2]), value=9.0) for row in packed.split(LENGTHS, 2)]
    )


def by_torch(query: Tensor, key: Tensor, value: Tensor, sight: Sight) -> Tensor:
    """One row, [1, H, T, d], as torch attends."""
    seen = sight.mask(torch.ones(1, query.shape[2], dtype=torch.bool))
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=0.3, enable_gqa=True)


@pytest.mark.parametrize("shared", [4, 2, 1])
@pytest.mark.parametrize("sight", [Sight(), Sight(causal=True), Sight(window=3), Sight(causal=True, window=3)])
def test_every_row_attends_as_it_would_alone(sight: Sight, shared: int) -> None:
    query, key, value = heads(4, sum(LENGTHS)), heads(shared, sum(LENGTHS)), -heads(shared, sum(LENGTHS))
    rows = zip(query.split(LENGTHS, 2), key.split(LENGTHS, 2), value.split(LENGTHS, 2), strict=True)
    expected = torch.cat([by_torch(q, k, v, sight) for q, k, v in rows], 2)

    layout = Layout.of(torch.tensor(LENGTHS))
    attended = torch.arange(LONGEST)[None] < torch.tensor(LENGTHS)[:, None]
    packed = RowAttention(attended, layout)(query, key, value, sight, scale=0.3)
    torch.testing.assert_close(packed, expected)

    padded = RowAttention(attended)(filled(query), filled(key), filled(value), sight, scale=0.3)
    for i, length in enumerate(LENGTHS):
        torch.testing.assert_close(padded[i, :, :length], expected.split(LENGTHS, 2)[i][0])


def test_keys_that_are_not_attended_to_have_no_weight_at_all() -> None:
    attend = RowAttention(torch.tensor([[True, True, False]]))
    query, key, value = heads(2, 3), heads(2, 3), -heads(2, 3)
    before = attend(query, key, value, Sight(), scale=1.0)
    key[:, :, 2], value[:, :, 2] = 100.0, 1e6
    assert torch.equal(attend(query, key, value, Sight(), scale=1.0), before)


def fail_inside(block: AbstractContextManager[None]) -> None:
    with block:
        raise ZeroDivisionError


def test_attention_interface_is_put_back_after_a_failure() -> None:
    model = AutoModel.from_config(tiny.config("Qwen3"))
    names, implementation = set(ALL_ATTENTION_FUNCTIONS), model.config._attn_implementation
    with pytest.raises(ZeroDivisionError):
        fail_inside(in_interface(model, RowAttention(torch.ones(1, 3, dtype=torch.bool))))
    assert model.config._attn_implementation == implementation
    assert set(ALL_ATTENTION_FUNCTIONS) == names


@pytest.mark.parametrize("bias", [None, torch.linspace(-2, 2, 4 * LONGEST**2).reshape(1, 4, LONGEST, LONGEST)])
@pytest.mark.parametrize("softcap", [None, 0.7])
def test_softcap_and_bias_are_those_of_transformers(softcap: float | None, bias: Tensor | None) -> None:
    query, key, value = heads(4, LONGEST), heads(2, LONGEST), -heads(2, LONGEST)
    module = Gemma2Attention(Gemma2Config(**tiny.DECODER), layer_idx=0)
    expected, _ = eager_attention_forward(module, query, key, value, bias, scaling=0.3, softcap=softcap)
    attend = RowAttention(torch.ones(1, LONGEST, dtype=torch.bool))
    actual = attend(query, key, value, Sight(), scale=0.3, softcap=softcap, bias=bias)
    torch.testing.assert_close(actual.transpose(1, 2), expected)


def test_arguments_of_attention_that_are_not_known_are_refused() -> None:
    model = AutoModel.from_config(tiny.config("Qwen3"))
    with (
        in_interface(model, RowAttention(torch.ones(1, 3, dtype=torch.bool))),
        pytest.raises(TypeError, match="its attention has s_aux, which"),
    ):
        model(input_ids=torch.tensor([[5, 6, 7]]), s_aux=torch.ones(4))
