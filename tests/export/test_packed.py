import pytest
import torch
from export.packed import Layout, attention, pack_rows
from torch.nn import functional


def test_layout_numbers_tokens_by_row_and_position() -> None:
    layout = Layout.of(torch.tensor([2, 1, 3]))
    assert layout.row.tolist() == [0, 0, 1, 2, 2, 2]
    assert layout.position.tolist() == [0, 1, 0, 0, 1, 2]
    assert layout.valid.tolist() == [[True, True, False], [True, False, False], [True, True, True]]


def test_packing_undoes_padding() -> None:
    layout = Layout.of(torch.tensor([2, 1, 3]))
    packed = torch.randn(6, 4)
    assert layout.pad(packed).shape == (3, 3, 4)
    assert torch.equal(layout.pack(layout.pad(packed)), packed)


def test_pack_rows_drops_what_lies_past_the_length() -> None:
    ids = torch.tensor([11, 12, 0, 0, 21, 31, 32, 33])  # rows stored 4, 1 and 3 long, of which 2, 1 and 2 are real
    packed = pack_rows(ids, torch.tensor([4, 1, 3], dtype=torch.int32), Layout.of(torch.tensor([2, 1, 2])))
    assert packed.tolist() == [11, 12, 21, 31, 32]


def test_attention_is_put_back_after_a_failure() -> None:
    original = functional.scaled_dot_product_attention

    def fail() -> None:
        with attention(lambda *_, **__: torch.zeros(1)):
            assert functional.scaled_dot_product_attention is not original
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert functional.scaled_dot_product_attention is original
