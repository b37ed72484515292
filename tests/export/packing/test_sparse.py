from typing import Any, cast

import pytest
import torch
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
from torch import Tensor
from transformers import AutoModelForMaskedLM, BertForMaskedLM, PreTrainedModel

from export.errors import SourceError
from export.manifest import Backend
from export.packing.encoder import RowEncoder
from export.packing.rows import PackedRows
from export.packing.sparse import WORDS, Splade, StaticTerms, WordLogits
from export.runtime.contract import SPARSE_INDICES, SPARSE_WEIGHTS
from loadtest.tools import tiny

LENGTHS = (3, 40, 1, 17)
FAMILIES = [name for name in tiny.ENCODERS if name != "T5"]  # which has no masked language model
FORMS = pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt", "torch"], ids=["packed", "padded", "laid out"])


def masked(name: str, words: int | None = None) -> PreTrainedModel:
    torch.manual_seed(0)
    config = tiny.config(name)
    config.vocab_size = words or config.vocab_size
    made: PreTrainedModel = AutoModelForMaskedLM.from_config(config).eval().requires_grad_(requires_grad=False)
    tiny.stir(made)
    return made


class Capped(BertForMaskedLM):
    """Caps its logits."""

    def forward(self, **given: Any) -> Any:
        output = super().forward(**given)
        output.logits = output.logits.tanh()
        return output


def texts() -> list[list[int]]:
    return [(torch.arange(length) * 7 % 250 + 5).tolist() for length in LENGTHS]


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_of_every_family_are_the_models_own(name: str) -> None:
    model = masked(name)
    ids = torch.tensor([texts()[1]])
    with torch.no_grad():
        words = WordLogits(model)
        hidden = model.base_model(input_ids=ids).last_hidden_state
        logits = words.transform(hidden) @ words.table.T + words.bias
        torch.testing.assert_close(logits, model(input_ids=ids).logits, atol=1e-5, rtol=1e-5)


def test_model_without_a_table_at_its_end_is_refused() -> None:
    with pytest.raises(SourceError, match=r"^source: BertModel has no linear layer for its vocabulary at the end$"):
        WordLogits(masked("BERT").bert)
    with pytest.raises(SourceError, match=r"^source: Capped changes logits behind the table of its vocabulary$"):
        WordLogits(Capped(cast(Any, tiny.config("BERT"))))


@FORMS
@pytest.mark.parametrize("strategy", SpladePooling.SPLADE_POOLING_MODES)
@pytest.mark.parametrize("activation", SpladePooling.SPLADE_ACTIVATION)
def test_words_weigh_as_in_sentence_transformers(strategy: str, activation: str, backend: Backend) -> None:
    model = masked("BERT", WORDS + 100)  # two slices
    most = 30
    with torch.no_grad():
        head = Splade(
            RowEncoder(model.base_model, backend),
            WordLogits(model),
            most=most,
            logs=2 if activation == "log1p_relu" else 1,
            total=strategy == "sum",
        )
        pool = SpladePooling(cast(Any, strategy), cast(Any, activation))
        expected = torch.cat([weigh(model, pool, ids) for ids in texts()])
        given = PackedRows.of([torch.tensor(ids) for ids in texts()]) if backend == "torch" else tiny.padded(texts())
        weights = head.weights(given)[: len(LENGTHS)]
        found = head(given)
    torch.testing.assert_close(weights, expected, atol=1e-5, rtol=1e-5)
    indices, values = (found[name][: len(LENGTHS)] for name in (SPARSE_INDICES, SPARSE_WEIGHTS))
    assert indices.dtype == torch.int32
    torch.testing.assert_close(values, expected.topk(most).values, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(values, expected.gather(1, indices.long()), atol=1e-5, rtol=1e-5)


def weigh(model: PreTrainedModel, pool: SpladePooling, ids: list[int]) -> Tensor:
    given = torch.tensor([ids])
    logits = model(input_ids=given).logits
    features = pool({"token_embeddings": logits, "attention_mask": torch.ones_like(given)})
    weights: Tensor = features["sentence_embedding"]
    return weights


def test_terms_of_a_table_are_those_of_sentence_transformers() -> None:
    table = torch.rand(300)
    static = SparseStaticEmbedding(cast(Any, tiny.wordpiece()), table)
    ids = [7, 9, 7, 250]
    with torch.no_grad():
        features = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, 4, dtype=torch.int64)}
        expected = static(features)["sentence_embedding"][0]
        for rows in (tiny.padded([ids, [3]]), PackedRows.of([torch.tensor(ids)])):
            found = StaticTerms(table)(rows)
            vector = torch.zeros(300).scatter_reduce(
                0, found[SPARSE_INDICES][0].long(), found[SPARSE_WEIGHTS][0], reduce="amax"
            )
            torch.testing.assert_close(vector, expected)
    padded = StaticTerms(table)(tiny.padded([ids, [3]]))[SPARSE_WEIGHTS]
    assert padded[1, 1:].tolist() == [0, 0, 0]
