"""Attention by rows, which replaces the attention of a model while it is traced.

A token attends to the tokens of its own row only: to all of them, or as a causal or sliding-window model does. Written
in plain operators, for packed and for padded rows.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from export.loading.models import Model
from export.packing.layout import Layout, columns
from export.packing.rows import PackedRows
from export.runtime.operators import MASKED, attend, attend_visible


@dataclass(frozen=True, slots=True)
class Sight:
    """The tokens of its row that a token attends to."""

    causal: bool = False
    """Whether it attends only to itself and to earlier tokens."""
    window: int | None = None
    """It attends only to tokens less than this many places away."""

    def mask(self, attended: Tensor, place: Tensor | None = None) -> Tensor:
        """Broadcastable to bool [N, 1, S, L], queries by keys.

        Args:
            attended: the keys that may be seen at all, bool [N, L].
            place: places of the queries in their rows, int64 [S]; by default, all of them.
        """
        seen = attended[:, None, None, :]
        column = columns(attended.shape[1])
        distance = (column if place is None else place)[:, None] - column[None]  # how far back a key is
        if self.causal:
            seen = seen & (distance >= 0)
        if self.window is not None:
            seen = seen & (distance.abs() < self.window)
        return seen


@dataclass(frozen=True, slots=True)
class RowAttention:
    """Attention over rows in either form."""

    attended: Tensor
    """bool [N, L], the keys of each row that may be seen."""
    layout: Layout | None = None
    """The layout of packed rows; None for padded ones."""
    slices: int = 1
    """Slices that the queries of a row are cut into: scores take memory for one slice at a time."""
    hides: bool = False
    """Whether rows have tokens that may not be seen, so that a window may hold none that may."""
    rows: PackedRows | None = None
    """Rows that an operator attends over as they are, where it can: scores with a bias or a cap are computed here."""

    @classmethod
    def by_lengths(cls, rows: PackedRows) -> "RowAttention":
        """The attention of rows that a host has laid out."""
        visible = rows.length if rows.visible is None else rows.visible
        attended = columns(rows.longest)[None] < visible[:, None]
        return cls(attended, rows.layout, hides=rows.visible is not None, rows=rows)

    @property
    def width(self) -> Tensor | int:
        """The length of the longest row, L: int64 [] where a number would become a constant of the graph."""
        width = self.attended.shape[1]
        return torch.as_tensor(width) if self.rows is None else width

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sight: Sight,
        scale: float,
        *,
        softcap: float | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            query: [1, H, T, d] packed, or [N, H, L, d] padded.
            key: the same, with H or a divisor of it for heads.
            value: as key.
            sight: the sight of every token.
            scale: the factor on the scores. Queries take it before the product: TensorRT fuses nothing else
                (docs.nvidia.com/deeplearning/tensorrt, Fused Attention), and fp16 holds more of the scores.
            softcap: scores are squashed to between this and its negative (Gemma 2, arXiv 2408.00118, section 2).
            bias: broadcastable to [N, H, L, L], added to the scores (T5, arXiv 1910.10683, section 2.1).

        Returns:
            The shape of `query`.
        """
        if self.rows is not None and softcap is None and bias is None:
            return _attend(self.rows, query, key, value, sight, scale)
        heads = query.shape[1]
        query = query * scale
        query, key, value = self._rows(query), self._rows(_repeat(key, heads)), self._rows(_repeat(value, heads))
        key = key.transpose(-1, -2)

        def attend(query: Tensor, bias: Tensor | None, unseen: Tensor) -> Tensor:
            scores = query @ key  # [N, H, L or S, L]
            if softcap is not None:
                scores = torch.tanh(scores / softcap) * softcap
            if bias is not None:
                scores = scores + bias
            mixed = torch.softmax(scores.masked_fill(unseen, MASKED), -1) @ value
            if self.hides and sight.window is not None:
                mixed = mixed * ~unseen.all(-1, keepdim=True)  # what sees nothing is 0, as in PyTorch's attention
            return mixed

        if self.slices == 1:
            mixed = attend(query, bias, ~sight.mask(self.attended))  # [N, H, L, d]
        else:
            parts = [
                attend(query[:, :, place], _queries(bias, place), ~sight.mask(self.attended, place))
                for place in self._places()
            ]
            mixed = torch.cat(parts, 2)[:, :, : self.attended.shape[1]]
        if self.layout is None:
            return mixed
        return self.layout.pack(mixed.transpose(1, 2))[None].transpose(1, 2)

    def pad(self, hidden: Tensor) -> Tensor:
        """Token vectors in the form of this attention, [1, T, D] or [N, L, D], to [N, L, D]."""
        return hidden if self.layout is None else self.layout.pad(hidden[0])

    def pack(self, hidden: Tensor) -> Tensor:
        """The way back from `pad`."""
        return hidden if self.layout is None else self.layout.pack(hidden)[None]

    def _places(self) -> list[Tensor]:
        """The places of each slice's queries, int64 [S] each. No slice is empty, so the last place may occur twice."""
        width = torch.as_tensor(self.width)
        size = (width + self.slices - 1) // self.slices
        column = columns(size)
        return [torch.minimum(column + size * i, width - 1) for i in range(self.slices)]

    def _rows(self, heads: Tensor) -> Tensor:
        if self.layout is None:
            return heads
        return self.layout.pad(heads.transpose(1, 2)[0]).transpose(1, 2)  # [1, H, T, d] -> [N, H, L, d]


def _attend(rows: PackedRows, query: Tensor, key: Tensor, value: Tensor, sight: Sight, scale: float) -> Tensor:
    """Attend by the operator, [1, H, T, d] as `query`."""
    query, key, value = (heads[0].transpose(0, 1) for heads in (query, key, value))  # [T, H, d]
    left = -1 if sight.window is None else sight.window - 1
    right = 0 if sight.causal else left
    if rows.visible is None or rows.keys is None:
        mixed: Tensor = attend(query, key, value, rows.starts, rows.longest, scale, left, right)
    else:
        mixed = attend_visible(
            query, key, value, rows.starts, rows.visible, rows.keys, rows.longest, scale, left, right
        )
    return mixed.transpose(0, 1)[None]


def _queries(bias: Tensor | None, place: Tensor) -> Tensor | None:
    """A bias [..., L or 1, L] for the queries at some places."""
    return bias if bias is None or bias.shape[-2] == 1 else bias[..., place, :]


def _repeat(heads: Tensor, count: int) -> Tensor:
    """Share key or value heads among `count` query heads (grouped-query attention, arXiv 2305.13245)."""
    groups = count // heads.shape[1]
    if groups == 1:
        return heads
    return heads[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2)


NAME = "by_rows"
"""The name of this implementation in transformers' table."""
IRRELEVANT = {"deterministic", "dropout", "output_attentions", "position_ids", "use_cache"}
"""Arguments of the interface that change no numbers of a model in eval mode."""


@contextmanager
def in_interface(model: Model, attend: RowAttention) -> Iterator[None]:
    """Attend by rows wherever a model asks transformers' table of attention functions, as nearly all families do.

    For an implementation of a name that transformers has no mask function for, models make no masks.

    Args:
        model: its configuration names the implementation.
        attend: the attention.

    Raises:
        TypeError: while the model runs: its attention has an argument that is not known here.
    """
    # A decoder made to see both ways says so in its configuration alone (transformers.masking_utils).
    may_be_causal = getattr(model.config, "is_causal", True) is not False

    def by_rows(
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,  # noqa: ARG001 - the rows say who sees whom
        scaling: float | None = None,
        is_causal: bool | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        position_bias: Tensor | None = None,
        **more: Any,  # noqa: ANN401 - each family has arguments of its own
    ) -> tuple[Tensor, None]:
        unknown = sorted(name for name, value in more.items() if name not in IRRELEVANT and value is not None)
        if unknown:
            raise TypeError(f"its attention has {', '.join(unknown)}, which packed attention does not support")
        causal = may_be_causal and (getattr(module, "is_causal", False) if is_causal is None else is_causal)
        scale = scaling if scaling is not None else query.shape[-1] ** -0.5
        mixed = attend(query, key, value, Sight(causal, sliding_window), scale, softcap=softcap, bias=position_bias)
        return mixed.transpose(1, 2), None

    with registered(model, NAME, by_rows):
        yield


@contextmanager
def registered(model: Model, name: str, attention: Callable[..., tuple[Tensor, None]]) -> Iterator[None]:
    """Put an attention function into transformers' table under a name, and have a model ask for it."""
    implementation = model.config._attn_implementation
    ALL_ATTENTION_FUNCTIONS[name] = attention
    model.config._attn_implementation = name
    try:
        yield
    finally:
        model.config._attn_implementation = implementation
        ALL_ATTENTION_FUNCTIONS.pop(name)


@contextmanager
def in_modules(modules: Iterable[torch.nn.Module], attend: RowAttention, mask: Tensor, **more: Any) -> Iterator[None]:  # noqa: ANN401
    """Have attention modules whose scores are their own compute padded rows, and only them.

    Args:
        modules: called with token vectors and a mask first; they answer with token vectors first.
        attend: tells the rows.
        mask: what the modules take for one.
        more: further arguments to replace.
    """

    def pad(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (attend.pad(args[0]), mask, *args[2:]), kwargs | more

    def pack(_: object, __: object, output: tuple[Any, ...]) -> tuple[Any, ...]:
        return attend.pack(output[0]), *output[1:]

    hooks = [
        hook
        for module in modules
        for hook in (module.register_forward_pre_hook(pad, with_kwargs=True), module.register_forward_hook(pack))
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
