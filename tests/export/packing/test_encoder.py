from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, PretrainedConfig, PreTrainedModel, RoFormerConfig
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.deberta_v2 import modeling_deberta_v2

from export.errors import SourceError
from export.manifest import Backend
from export.packing.encoder import RowEncoder, first_position
from export.packing.rows import PackedRows, Rows
from loadtest.tools import tiny

LENGTHS = (3, 90, 1, 17)
"""Shorter and longer than the windows of `tiny`, which are 16 tokens."""
PADDED: Mapping[str, PretrainedConfig] = {
    # A convolution would mix the end of a row with the beginning of the next.
    "DeBERTa-v2, convolution": tiny.config("DeBERTa-v2", conv_kernel_size=3, conv_act="gelu"),
    "LFM2": tiny.config("LFM2"),
    "attention of its own": RoFormerConfig(**tiny.SIZES, vocab_size=500, pad_token_id=1),
}
PACKED = [name for name in tiny.ENCODERS | tiny.DECODERS if name not in PADDED]
PADDING = 1
FORMS = pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt", "torch"], ids=["packed", "padded", "laid out"])


@cache
def model(name: str) -> PreTrainedModel:
    fresh = AutoModel.from_config(PADDED[name]) if name in PADDED else tiny.base(name)
    made: PreTrainedModel = fresh.eval().requires_grad_(requires_grad=False)
    tiny.stir(made)
    return made


def rows(*lengths: int, visible: tuple[int, ...] | None = None, first_length: Tensor | None = None) -> Rows:
    random = torch.Generator().manual_seed(sum(lengths))
    ids = torch.randint(5, 250, (len(lengths), max(lengths)), generator=random)
    length = torch.tensor(lengths)
    made = Rows(ids, length, torch.tensor(visible or lengths), first_length)
    return Rows(torch.where(made.valid, ids, PADDING), length, made.visible, first_length)


def laid_out(given: Rows) -> PackedRows:
    """The same rows as a host lays them out."""
    packed = PackedRows.of([ids[:n] for ids, n in zip(given.ids, given.length.tolist(), strict=True)])
    first_length = None if given.first_length is None else functional.pad(given.first_length, (0, 1))
    if not given.hides or torch.equal(given.visible, given.length):
        return replace(packed, first_length=first_length)
    visible = functional.pad(given.visible, (0, 1))
    keys = (packed.place < visible[packed.row]).nonzero()[:, 0]
    return replace(packed, first_length=first_length, visible=visible.int(), keys=keys.int())


def encode(name: str, backend: Backend, given: Rows) -> Tensor:
    """Token vectors of rows, [N, L, D]."""
    encoder = RowEncoder(model(name), backend)
    if backend != "torch":
        encoded: Tensor = encoder(given)
        return encoded
    packed = laid_out(given)
    return packed.layout.pad(encoder(packed)[0])[:-1]


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


@FORMS
@pytest.mark.parametrize("name", [*PACKED, *PADDED])
def test_rows_have_the_token_vectors_that_they_have_alone(name: str, backend: Backend) -> None:
    given = rows(*LENGTHS)
    assert_rows(encode(name, backend, given), alone(name, given))


@pytest.mark.parametrize("name", [*PACKED, *PADDED])
def test_models_are_packed_where_that_is_exact(name: str) -> None:
    assert RowEncoder(model(name), "python").packed is (name in PACKED)
    assert RowEncoder(model(name), "torch").packed is (name in PACKED)
    assert not RowEncoder(model(name), "tensorrt").packed


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"], ids=["packed", "padded"])
def test_parts_of_different_rows_are_encoded_as_they_would_be_alone(backend: Backend) -> None:
    queries, documents = rows(5, 12), rows(*LENGTHS)
    encoded = RowEncoder(model("RoBERTa"), backend).parts(queries, documents)
    for hidden, given in zip(encoded, (queries, documents), strict=True):
        assert_rows(hidden, alone("RoBERTa", given))


@FORMS
@pytest.mark.parametrize("name", ["BERT", "ModernBERT"])
def test_tokens_that_are_not_attended_to_still_attend(name: str, backend: Backend) -> None:
    given = rows(9, 6, visible=(4, 6))
    hidden = encode(name, backend, given)
    expected = [
        model(name)(input_ids=ids[None, :n], attention_mask=(torch.arange(n) < seen)[None]).last_hidden_state[0]
        for ids, n, seen in zip(given.ids, (9, 6), (4, 6), strict=True)
    ]
    assert_rows(hidden, expected)


@FORMS
@pytest.mark.parametrize("name", ["BERT", "MPNet"])
def test_segments_reach_models_that_have_them(name: str, backend: Backend) -> None:
    given = rows(9, 6, first_length=torch.tensor([4, 2]))
    hidden = encode(name, backend, given)
    expected = [
        model(name)(
            input_ids=ids[None, :n],
            **({"token_type_ids": (torch.arange(n) >= first).long()[None]} if name == "BERT" else {}),
        ).last_hidden_state[0]
        for ids, n, first in zip(given.ids, (9, 6), (4, 2), strict=True)
    ]
    assert_rows(hidden, expected)


@pytest.mark.parametrize("name", [*PACKED, *PADDED])
def test_model_is_left_as_it_was_even_after_a_failure(name: str) -> None:
    batch = {"input_ids": rows(12, 12).ids, "attention_mask": (torch.arange(12) < torch.tensor([[12], [7]])).long()}
    before = model(name)(**batch).last_hidden_state
    state = (
        model(name).config._attn_implementation,
        set(ALL_ATTENTION_FUNCTIONS),
        modeling_deberta_v2.build_rpos,
    )

    encoder = RowEncoder(model(name), "python")
    encoder(rows(*LENGTHS))
    beyond = Rows(torch.tensor([[10**6]]), torch.tensor([1]), torch.tensor([1]))
    with pytest.raises(IndexError):
        encoder(beyond)

    assert state == (
        model(name).config._attn_implementation,
        set(ALL_ATTENTION_FUNCTIONS),
        modeling_deberta_v2.build_rpos,
    )
    assert torch.equal(model(name)(**batch).last_hidden_state, before)


@pytest.mark.parametrize(
    ("name", "first"),
    [("BERT", 0), ("RoBERTa", 2), ("XLM-RoBERTa", 2), ("MPNet", 2), ("Qwen3", 0), ("jina-embeddings-v3", 0)],
)
def test_positions_begin_where_the_family_counts_from(name: str, first: int) -> None:
    # RoBERTa's are counted from behind its padding id, 1: 128 of them hold rows of 126 tokens.
    assert first_position(model(name)) == first


def test_a_model_whose_texts_depend_on_each_other_is_refused() -> None:
    class MixesRows(torch.nn.Module):
        """A model with a fault: each token vector has the mean of the batch in it."""

        def __init__(self, inner: PreTrainedModel) -> None:
            super().__init__()
            self.inner, self.config = inner, inner.config

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutput:
            hidden = self.inner(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return BaseModelOutput(last_hidden_state=hidden + hidden.mean((0, 1)))

    with pytest.raises(SourceError, match="MixesRows cannot be batched"):
        RowEncoder(MixesRows(model("BERT")), "python")
