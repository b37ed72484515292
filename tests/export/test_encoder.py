from collections.abc import Mapping
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, ElectraConfig, PretrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.deberta_v2 import modeling_deberta_v2

from export.encoder import FAMILIES, RowEncoder
from export.rows import Rows
from tests.export import tiny

LENGTHS = (3, 90, 1, 17)
"""Shorter and longer than the windows of `tiny`, which are 16 tokens."""
PACKED = ["BERT", "DistilBERT", "RoBERTa", "MPNet", "DeBERTa-v2", "ModernBERT", "Mistral", "Qwen3", "EmbeddingGemma"]
"""One for each way that families differ: positions, biases, windows, who sees whom, heads that are shared."""
PADDED: Mapping[str, PretrainedConfig] = {
    "of a type that is not known": ElectraConfig(
        **tiny.SIZES, vocab_size=500, embedding_size=tiny.WIDTH, pad_token_id=1
    ),
    # It would mix the end of a row with the beginning of the next.
    "with a convolution": tiny.config("DeBERTa-v2", conv_kernel_size=3, conv_act="gelu"),
}
PADDING = 1


@cache
def model(name: str) -> PreTrainedModel:
    config = PADDED[name] if name in PADDED else tiny.config(name)
    made: PreTrainedModel = AutoModel.from_config(config).eval().requires_grad_(requires_grad=False)
    tiny.stir(made)
    return made


def rows(*lengths: int, visible: tuple[int, ...] | None = None, first_length: Tensor | None = None) -> Rows:
    random = torch.Generator().manual_seed(sum(lengths))
    ids = torch.randint(5, 250, (len(lengths), max(lengths)), generator=random)
    length = torch.tensor(lengths)
    made = Rows(ids, length, torch.tensor(visible or lengths), first_length)
    return Rows(torch.where(made.valid, ids, PADDING), length, made.visible, first_length)


def assert_rows(hidden: Tensor, expected: list[Tensor]) -> None:
    for row, one in zip(hidden, expected, strict=True):
        torch.testing.assert_close(row[: len(one)], one, atol=2e-5, rtol=2e-5)


def alone(name: str, given: Rows) -> list[Tensor]:
    """Token vectors of every row alone, by transformers."""
    length = given.length.tolist()
    return [
        model(name)(input_ids=ids[None, :n], attention_mask=torch.ones(1, n)).last_hidden_state[0]
        for ids, n in zip(given.ids, length, strict=True)
    ]


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("name", [*PACKED, *PADDED])
def test_rows_have_the_token_vectors_that_they_have_alone(name: str, packed: bool) -> None:
    given = rows(*LENGTHS)
    (hidden,) = RowEncoder(model(name), packed=packed)(given)
    assert_rows(hidden, alone(name, given))


@pytest.mark.parametrize("name", [*PACKED, *PADDED])
def test_only_models_whose_attention_is_known_are_packed(name: str) -> None:
    assert RowEncoder(model(name), packed=True).packed is (name in PACKED)
    assert not RowEncoder(model(name), packed=False).packed


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_parts_of_different_rows_are_encoded_as_they_would_be_alone(packed: bool) -> None:
    queries, documents = rows(5, 12), rows(*LENGTHS)
    encoded = RowEncoder(model("RoBERTa"), packed=packed)(queries, documents)
    for hidden, given in zip(encoded, (queries, documents), strict=True):
        assert_rows(hidden, alone("RoBERTa", given))


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_tokens_that_are_not_attended_to_still_attend(packed: bool) -> None:
    given = rows(9, 6, visible=(4, 6))
    (hidden,) = RowEncoder(model("BERT"), packed=packed)(given)
    expected = [
        model("BERT")(input_ids=ids[None, :n], attention_mask=(torch.arange(n) < seen)[None]).last_hidden_state[0]
        for ids, n, seen in zip(given.ids, (9, 6), (4, 6), strict=True)
    ]
    assert_rows(hidden, expected)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("name", ["BERT", "MPNet"])
def test_segments_reach_models_that_have_them(name: str, packed: bool) -> None:
    given = rows(9, 6, first_length=torch.tensor([4, 2]))
    (hidden,) = RowEncoder(model(name), packed=packed)(given)
    expected = [
        model(name)(
            input_ids=ids[None, :n],
            **({"token_type_ids": (torch.arange(n) >= first).long()[None]} if name == "BERT" else {}),
        ).last_hidden_state[0]
        for ids, n, first in zip(given.ids, (9, 6), (4, 2), strict=True)
    ]
    assert_rows(hidden, expected)


@pytest.mark.parametrize("name", [*tiny.ENCODERS, *tiny.DECODERS, *PADDED])
def test_model_is_left_as_it_was_even_after_a_failure(name: str) -> None:
    batch = {"input_ids": rows(12, 12).ids, "attention_mask": (torch.arange(12) < torch.tensor([[12], [7]])).long()}
    before = model(name)(**batch).last_hidden_state
    state = (
        functional.scaled_dot_product_attention,
        model(name).config._attn_implementation,
        set(ALL_ATTENTION_FUNCTIONS),
        modeling_deberta_v2.build_rpos,
    )

    encoder = RowEncoder(model(name), packed=True)
    encoder(rows(*LENGTHS))
    beyond = Rows(torch.tensor([[10**6]]), torch.tensor([1]), torch.tensor([1]))
    with pytest.raises(IndexError):
        encoder(beyond)

    assert state == (
        functional.scaled_dot_product_attention,
        model(name).config._attn_implementation,
        set(ALL_ATTENTION_FUNCTIONS),
        modeling_deberta_v2.build_rpos,
    )
    assert torch.equal(model(name)(**batch).last_hidden_state, before)


def test_positions_begin_where_the_family_counts_from() -> None:
    # RoBERTa's are counted from behind its padding id: 128 of them hold rows of 126 tokens.
    assert FAMILIES["roberta"].first_position(model("RoBERTa").config) == 2
    assert model("RoBERTa").config.pad_token_id == 1
    assert FAMILIES["bert"].first_position(model("BERT").config) == 0
