"""The heads of sparse vectors: the words of a vocabulary that stand for a row, with their weights."""

import copy
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutput

from export.errors import SourceError
from export.loading.models import Model
from export.packing.encoder import RowEncoder
from export.packing.heads import AnyRows
from export.packing.layout import columns
from export.packing.rows import PackedRows, Rows
from export.runtime.contract import SPARSE_INDICES, SPARSE_WEIGHTS
from export.runtime.operators import splade

WORDS = 4096
"""Words of the vocabulary whose logits a graph computes at a time. With 512 tokens they fit into a processor's cache;
on two cores with bf16, such slices are as fast as all 30,522 words of BERT at once."""


class Splade(torch.nn.Module):
    """The heaviest words of a row, [N, K], as SPLADE weights them.

    A word's weight is the largest of its logits over the row's tokens, or their sum, after log(1 + relu(x)), taken once
    or twice (Formal et al. 2021, arXiv 2107.05720 and 2109.10086; Shen et al. 2025, arXiv 2504.14839).
    """

    def __init__(
        self, encoder: RowEncoder, words: "WordLogits", *, most: int, logs: int, total: bool, limited: bool = False
    ) -> None:
        """Take an encoder and what turns its vectors into logits.

        Args:
            encoder: of the tokens.
            words: the rest of the masked language model.
            most: words to keep, K.
            logs: how often log(1 + x) is taken.
            total: whether a word's weight is the sum over the tokens.
            limited: whether the source itself keeps no more than K - 1: the last word then has no weight.
        """
        super().__init__()
        self.encoder = encoder
        self.words = words
        self.most = most
        self.logs = logs
        self.total = total
        self.limited = limited

    def forward(self, rows: AnyRows) -> Mapping[str, Tensor]:
        weights, ids = torch.topk(self.weights(rows), self.most, dim=1)
        if self.limited:
            weights = functional.pad(weights[:, :-1], (0, 1))
        return {SPARSE_INDICES: ids.to(torch.int32), SPARSE_WEIGHTS: weights}

    def weights(self, rows: AnyRows) -> Tensor:
        """The weights of all words, [N, V]."""
        hidden = self.words.transform(self.encoder(rows))
        table, bias = self.words.table, self.words.bias
        if isinstance(rows, PackedRows):
            weights: Tensor = splade(hidden[0], table, bias, rows.starts, self.logs, self.total)
            return weights
        if not self.total:  # behind a row's end stands its last token again, which changes no maximum
            last = torch.minimum(columns(rows.ids.shape[1])[None], rows.length[:, None] - 1)
            hidden = hidden.gather(1, last[..., None].expand(-1, -1, hidden.shape[2]))
        parts = [
            self._of(hidden @ part.T, own, rows)
            for part, own in zip(torch.split(table, WORDS), torch.split(bias, WORDS), strict=True)
        ]
        return torch.cat(parts, 1)

    def _of(self, logits: Tensor, bias: Tensor, rows: Rows) -> Tensor:
        """The weights of some words, [N, S], of their logits without bias, [N, L, S]."""
        if not self.total:
            return self._saturated(logits.amax(1) + bias)
        return torch.where(rows.valid[..., None], self._saturated(logits + bias), 0.0).sum(1)

    def _saturated(self, logits: Tensor) -> Tensor:
        weights = logits.relu()
        for _ in range(self.logs):
            weights = torch.log1p(weights)
        return weights


class WordLogits(torch.nn.Module):
    """A masked language model behind its base model: token vectors to logits of words, in two steps.

    The last step, the product with a table of the vocabulary, is apart, so that it can be computed in slices.
    """

    table: Tensor
    """[V, D]."""
    bias: Tensor
    """FP32 [V]."""

    def __init__(self, model: Model) -> None:
        """Take a model of the kind ForMaskedLM.

        Raises:
            SourceError: the product with a table of the vocabulary is not its last step.
        """
        super().__init__()
        decoder = model.get_output_embeddings()
        path = next((path for path, module in model.named_modules() if module is decoder), "")
        if not isinstance(decoder, torch.nn.Linear) or not path:
            raise SourceError(f"source: {type(model).__name__} has no linear layer for its vocabulary at the end")
        self.register_buffer("table", decoder.weight.detach())
        bias: Tensor | None = decoder.bias
        self.register_buffer("bias", torch.zeros(len(decoder.weight)) if bias is None else bias.detach())
        self.base = _Given()
        self.model = _with(_with(model, path, torch.nn.Identity()), model.base_model_prefix, self.base)
        hidden = torch.randn(2, 5, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
        given = _Given()
        whole = _with(model, model.base_model_prefix, given)
        with torch.no_grad():
            given.hidden = cast(torch.FloatTensor, hidden)
            expected = whole(input_ids=torch.ones(2, 5, dtype=torch.int64)).logits
            found = self.transform(hidden) @ self.table.T + self.bias
        if not torch.allclose(found, expected, rtol=1e-4, atol=1e-4):
            raise SourceError(f"source: {type(model).__name__} changes logits behind the table of its vocabulary")

    def transform(self, hidden: Tensor) -> Tensor:
        """What is multiplied with the table, of token vectors: [..., D] to [..., D]."""
        self.base.hidden = cast(torch.FloatTensor, hidden)
        ids = torch.zeros_like(hidden[..., 0], dtype=torch.int64)
        transformed: Tensor = self.model(input_ids=ids).logits
        return transformed


def _with(model: Model, path: str, module: torch.nn.Module) -> Model:
    """A model with another module at a path; the modules on the way are copies, and all others are its own."""
    name, _, rest = path.partition(".")
    changed = copy.copy(model)
    changed._modules = {**model._modules, name: _with(model._modules[name], rest, module) if rest else module}
    return changed


class _Given(torch.nn.Module):
    """Stands in for a base model whose token vectors are known."""

    hidden: torch.FloatTensor

    def forward(self, *_: object, **__: object) -> BaseModelOutput:
        hidden = self.hidden
        del self.hidden  # a tracer's tensor could not be copied later
        return BaseModelOutput(last_hidden_state=hidden)


class StaticTerms(torch.nn.Module):
    """The words of a row are its tokens, each with a weight of its own: one for each token, in the form of the rows.

    Queries of inference-free models are such (Geng et al. 2024, arXiv 2411.04403).
    """

    weights: Tensor

    def __init__(self, weights: Tensor) -> None:
        """Take the weights of all words, FP32 [V]."""
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, rows: AnyRows) -> Mapping[str, Tensor]:
        weights = self.weights[rows.ids]
        if isinstance(rows, Rows):
            weights = torch.where(rows.valid, weights, 0.0)
        return {SPARSE_INDICES: rows.ids.to(torch.int32), SPARSE_WEIGHTS: weights}
