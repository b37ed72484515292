"""A transformers encoder or decoder that computes rows: on real tokens only, where its family allows.

Rows of different length are concatenated into one sequence of T tokens, so every per-token operation (embeddings,
linear layers, normalization: nearly all of the work) runs on exactly T tokens. Only attention needs rows: it scatters
queries, keys and values to a padded [N, H, L, d] and gathers the result back.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.models.deberta_v2 import modeling_deberta_v2

from export.errors import SourceError
from export.loading.models import Model
from export.manifest import Backend
from export.packing.attention import RowAttention, in_interface, in_modules
from export.packing.layout import Layout, columns
from export.packing.rows import PackedRows, Rows
from export.runtime.operators import MASKED

Patch = Callable[[Model, RowAttention], AbstractContextManager[None]]
"""Has a model attend by rows inside a block."""


@contextmanager
def _mpnet(model: Model, attend: RowAttention) -> Iterator[None]:
    """MPNet adds a bias by distance to the scores, the same for all rows."""
    encoder = model.encoder
    original = encoder.compute_position_bias
    encoder.compute_position_bias = lambda *_, **__: original(attend.attended[:1, :, None])
    mask = torch.where(attend.attended, 0.0, MASKED)[:, None, None].to(model.dtype)
    try:
        with in_modules([layer.attention.attn for layer in encoder.layer], attend, mask):
            yield
    finally:
        del encoder.compute_position_bias


@contextmanager
def _deberta(model: Model, attend: RowAttention) -> Iterator[None]:
    """DeBERTa adds scores of contents with distances (He et al. 2021, arXiv 2006.03654, section 3.1).

    It asks in the graph whether there are as many keys as queries, which OpenVINO cannot take.
    """
    original = modeling_deberta_v2.build_rpos
    modeling_deberta_v2.build_rpos = lambda query, key, relative_pos, *_: relative_pos  # noqa: ARG005
    mask = attend.attended[:, None, None]
    try:
        with in_modules([layer.attention.self for layer in model.encoder.layer], attend, mask, relative_pos=None):
            yield
    finally:
        modeling_deberta_v2.build_rpos = original


@contextmanager
def _t5(model: Model, attend: RowAttention) -> Iterator[None]:
    """T5 adds a bias by distance to the scores, the same for all rows, which it would make for the whole sequence."""
    attentions = [module for module in model.modules() if getattr(module, "has_relative_attention_bias", False)]
    for attention in attentions:
        original = attention.compute_bias
        attention.compute_bias = lambda *_, original=original, **__: original(attend.width, attend.width)
    try:
        with in_interface(model, attend):
            yield
    finally:
        for attention in attentions:
            del attention.compute_bias


@contextmanager
def _of_any_length(model: Model) -> Iterator[None]:
    """CLIP and its kin compare the tokens of all rows together with the positions that one row has."""
    found = [
        module
        for module in model.modules()
        if hasattr(module, "token_embedding") and hasattr(module, "position_embedding")
    ]
    for module in found:
        module.forward = partial(_embed, module)
    try:
        yield
    finally:
        for module in found:
            del module.forward


def _embed(module: Model, input_ids: Tensor, position_ids: Tensor, **_: object) -> Tensor:
    embedded: Tensor = module.token_embedding(input_ids) + module.position_embedding(position_ids)
    return embedded


PATCHES: Mapping[str, Patch] = {
    "deberta-v2": _deberta,
    "mpnet": _mpnet,
    **dict.fromkeys(("mt5", "t5", "umt5"), _t5),
}
"""The patches by `model_type`. All other families attend through transformers' table of attention functions."""
SLICEABLE = (in_interface, _t5)
"""The patches that leave the scores to `RowAttention`."""


def first_position(model: Model) -> int:
    """The position of a row's first token: behind the padding id in RoBERTa and its kin, which count from there."""
    for module in model.modules():
        counts = any(hasattr(owner, COUNTING) for owner in (module, inspect.getmodule(type(module))))
        if counts and hasattr(module, "position_embeddings") and isinstance(module.padding_idx, int):
            return module.padding_idx + 1
    return 0


COUNTING = "create_position_ids_from_input_ids"
"""A method of embeddings, or a function of their module, that numbers the tokens that are not padding."""


@dataclass(frozen=True, slots=True)
class Form:
    """The form in which an encoder computes rows."""

    packed: bool
    """Real tokens only, rows one behind the other; otherwise rows padded to the longest."""
    patch: Patch | None
    """Makes it attend by rows; None for its own attention with a mask."""


PROBE = (5, 19, 12)
"""Lengths of the rows that tell whether a form is exact."""
INEXACT = 1e-3
"""The largest error of an exact form, relative to the largest value: far above rounding, and far below the effect of
a token of another row."""
IMPOSSIBLE = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""The exceptions that a model's code raises in a form that it does not support."""


class RowEncoder(torch.nn.Module):
    """Token vectors of rows, from a model that takes `input_ids`.

    The form is the first of packed rows, padded rows and padded rows with a mask in which a few rows together give what
    the model itself gives for each alone: a new family needs no line here as long as it attends like others.
    """

    def __init__(self, model: Model, backend: Backend, *, fills_up: bool = False, all_layers: bool = False) -> None:
        """Wrap a model.

        Args:
            model: without a head; it is called only with what its signature has.
            backend: what will run it. A packed graph has dimensions that depend on values, which TensorRT cannot take;
                in a torch program the host has laid out the rows.
            fills_up: whether all rows are of one length, so that there is nothing to pack.
            all_layers: give the vectors of every layer, embeddings first, side by side; its config asks for them.

        Raises:
            SourceError: rows influence each other in every form.
        """
        super().__init__()
        self.model = model
        self.slices = 1
        """Into which attention cuts the queries of a row, if it `is_sliceable`."""
        self.all_layers = all_layers
        self._takes = set(inspect.signature(model.forward).parameters)
        if not any(name.endswith("token_type_embeddings") for name, _ in model.named_modules()):
            self._takes -= {"token_type_ids"}  # GPT-2 takes ids of words for them
        self._first = first_position(model)
        patch = PATCHES.get(model.config.model_type, in_interface)
        forms = (Form(packed=True, patch=patch), Form(packed=False, patch=patch), Form(packed=False, patch=None))
        is_padded = backend == "tensorrt" or (fills_up and backend != "torch")
        for self.form in forms[1 if is_padded else 0 :]:
            if self._is_exact(by_lengths=backend == "torch"):
                return
        raise SourceError(
            f"source: {type(model).__name__} cannot be batched: the output of a text depends on other texts of its"
            " batch, or its code fails on token ids"
        )

    @property
    def packed(self) -> bool:
        """Whether it computes real tokens only."""
        return self.form.packed

    @property
    def heads(self) -> int:
        """The number of attention heads; 0 for a model without attention."""
        return int(getattr(self.model.config, "num_attention_heads", 0))

    @property
    def is_sliceable(self) -> bool:
        """Whether its scores are computed here, and not by the model's own code."""
        return self.form.patch in SLICEABLE

    @property
    def width(self) -> int:
        """The dimensions of a token's vector in one layer, D."""
        width: int = self.model.config.hidden_size
        return width

    @property
    def is_causal(self) -> bool:
        """Whether tokens see only those before them."""
        config = self.model.config
        return getattr(config, "is_causal", True) is not False and any(
            getattr(module, "is_causal", False) for module in self.model.modules()
        )

    def _is_exact(self, *, by_lengths: bool) -> bool:
        """Whether a few rows together are what the model gives for each of them."""
        last = self.model.config.vocab_size - 1
        ids = torch.arange(sum(PROBE)) * 7 % last
        ids[ids == self.model.config.pad_token_id] = last  # RoBERTa gives padding no position
        parts, length = ids.split(PROBE), torch.tensor(PROBE)
        try:
            with torch.no_grad():
                alone = [self._run(input_ids=row[None], attention_mask=torch.ones_like(row)[None])[0] for row in parts]
                if by_lengths:
                    together = self(PackedRows.of(parts))[0].split(PROBE)
                else:
                    together = self(Rows(torch.nn.utils.rnn.pad_sequence(parts, batch_first=True), length, length))
        except IMPOSSIBLE:
            return False
        return all(
            bool((found[: len(row)] - row).abs().max() <= INEXACT * row.abs().max())
            for found, row in zip(together, alone, strict=True)
        )

    def forward(self, rows: Rows | PackedRows) -> Tensor:
        """Encode rows: padded ones to [N, L, D], meaningless behind a row's end, and packed ones to [1, T, D].

        With all K layers, to [N, L, K * D] and [1, T, K * D].
        """
        if isinstance(rows, Rows):
            return self.parts(rows)[0]
        if self.packed:
            hidden = self._by_rows(rows.ids, rows.segments, rows.position, RowAttention.by_lengths(rows))
        else:
            hidden = rows.layout.pack(self._padded(rows.padded()))[None]
        return hidden.float()  # what follows is little work, and has its weights in float32

    def parts(self, *parts: Rows) -> list[Tensor]:
        """Encode parts together, such as queries and documents, each to [N, L, D]."""
        if not self.packed:
            return [self._padded(rows) for rows in parts]
        layouts = [Layout.of(rows.length) for rows in parts]
        layout = Layout.of(torch.cat([rows.length for rows in parts])) if len(parts) > 1 else layouts[0]
        visible = torch.cat([rows.visible for rows in parts])
        attended = columns(layout.padding.shape[1])[None] < visible[:, None]
        hidden = self._by_rows(
            torch.cat([own.pack(rows.ids) for own, rows in zip(layouts, parts, strict=True)])[None],
            torch.cat([own.pack(rows.segments) for own, rows in zip(layouts, parts, strict=True)])[None],
            layout.position[None],
            RowAttention(attended, layout, self.slices, hides=any(rows.hides for rows in parts)),
        )[0]
        if len(parts) == 1:
            return [layout.pad(hidden)]
        begin = torch.zeros((), dtype=torch.int64)
        padded = []
        for own in layouts:
            end = begin + own.length.sum()
            padded.append(own.pad(hidden[begin:end]))
            begin = end
        return padded

    def _padded(self, rows: Rows) -> Tensor:
        if self.form.patch is not None:
            positions = columns(rows.ids.shape[1])[None]
            attend = RowAttention(rows.attended, slices=self.slices, hides=rows.hides)
            return self._by_rows(rows.ids, rows.segments, positions, attend)
        mask = rows.attended.to(torch.int64)
        return self._run(input_ids=rows.ids, attention_mask=mask, token_type_ids=rows.segments)

    def _by_rows(self, ids: Tensor, segments: Tensor, positions: Tensor, attend: RowAttention) -> Tensor:
        with self._attending(attend):
            # Left out, models take segments from a buffer as long as one row may be.
            return self._run(input_ids=ids, position_ids=positions + self._first, token_type_ids=segments)

    @contextmanager
    def _attending(self, attend: RowAttention) -> Iterator[None]:
        """Have the model attend by rows."""
        assert self.form.patch is not None  # noqa: S101 - the callers have looked
        with self.form.patch(self.model, attend), _of_any_length(self.model):
            yield

    def _run(self, **arguments: Any) -> Tensor:  # noqa: ANN401 - families have arguments of their own
        given: dict[str, Any] = {"use_cache": False, **arguments}
        output = self.model(**{name: value for name, value in given.items() if name in self._takes})
        hidden: Tensor = torch.cat(output.hidden_states, -1) if self.all_layers else output.last_hidden_state
        return hidden
