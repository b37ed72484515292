"""A transformers encoder or decoder that computes rows: on real tokens only, where its family allows.

Packed, rows of different length stand one behind the other in a single sequence of T tokens, so every per-token
operation (embeddings, linear layers, normalisation: nearly all of the work) runs on exactly T tokens. Only the
attention needs rows: it scatters queries, keys and values to a padded [N, H, L, d] and gathers the result back.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.models.deberta_v2 import modeling_deberta_v2

from export.attention import MASKED_SCORE, Layout, RowAttention, Sight, in_interface, in_modules, in_sdpa
from export.loading import Model
from export.rows import Rows, columns


def _sdpa(_: Model, attend: RowAttention, __: Tensor) -> AbstractContextManager[None]:
    return in_sdpa(attend)


def _interface(model: Model, attend: RowAttention, _: Tensor) -> AbstractContextManager[None]:
    return in_interface(model, attend, causal=False)


def _causal_interface(model: Model, attend: RowAttention, _: Tensor) -> AbstractContextManager[None]:
    """CLIP's text tower is causal by its mask alone."""
    return in_interface(model, attend, causal=True)


@contextmanager
def _distilbert(model: Model, attend: RowAttention, positions: Tensor) -> Iterator[None]:
    """DistilBERT takes no positions: they are put in where it looks them up."""
    lookup = model.embeddings.position_embeddings.register_forward_pre_hook(lambda *_: (positions,))
    try:
        with in_sdpa(attend):
            yield
    finally:
        lookup.remove()


@contextmanager
def _modernbert(model: Model, attend: RowAttention, _: Tensor) -> Iterator[None]:
    """ModernBERT tells its layers how far they see by the mask it hands them."""
    window = Sight(window=model.config.local_attention // 2 + 1)
    model._update_attention_mask = lambda *_, **__: (Sight(), window)
    try:
        with in_sdpa(attend):
            yield
    finally:
        del model._update_attention_mask


@contextmanager
def _mpnet(model: Model, attend: RowAttention, _: Tensor) -> Iterator[None]:
    """MPNet adds a bias by distance to the scores, the same for all rows."""
    encoder = model.encoder
    original = encoder.compute_position_bias
    encoder.compute_position_bias = lambda *_, **__: original(attend.attended[:1, :, None])
    mask = torch.where(attend.attended, 0.0, MASKED_SCORE)[:, None, None]
    try:
        with in_modules([layer.attention.attn for layer in encoder.layer], attend, mask):
            yield
    finally:
        del encoder.compute_position_bias


@contextmanager
def _deberta(model: Model, attend: RowAttention, _: Tensor) -> Iterator[None]:
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


@dataclass(frozen=True, slots=True)
class Family:
    """How models of one type are made to attend by rows."""

    patch: Callable[[Model, RowAttention, Tensor], AbstractContextManager[None]]
    """Has a model do so inside a block, at positions int64 [N or 1, T or L]."""
    first_position: Callable[[PretrainedConfig], int] = lambda _: 0


def _after_padding(config: PretrainedConfig) -> int:
    return (config.pad_token_id or 0) + 1


FAMILIES: Mapping[str, Family] = {
    "bert": Family(_sdpa),
    "deberta-v2": Family(_deberta),
    "distilbert": Family(_distilbert),
    "modernbert": Family(_modernbert),
    "mpnet": Family(_mpnet, lambda _: MPNET_FIRST_POSITION),
    **dict.fromkeys(("camembert", "roberta", "xlm-roberta"), Family(_sdpa, _after_padding)),
    **dict.fromkeys(("gemma", "gemma3_text", "llama", "mistral", "qwen2", "qwen3"), Family(_interface)),
    **dict.fromkeys(("chinese_clip_text_model", "siglip_text_model", "siglip2_text_model"), Family(_interface)),
    "clip_text_model": Family(_causal_interface),
}
"""By `model_type`. A model of any other type gets padded rows and a mask."""
MPNET_FIRST_POSITION = 2
"""Behind the padding id of its vocabulary, which is 1 whatever the configuration says."""


class RowEncoder(torch.nn.Module):
    """Token vectors of rows, from a model that takes `input_ids` and `attention_mask`."""

    def __init__(self, model: Model, *, packed: bool) -> None:
        """Wrap a model.

        Args:
            model: without a head; it is called only with what its signature has.
            packed: compute real tokens only, if its family can be packed; its graph then has dimensions that depend on
                values, which TensorRT cannot take.
        """
        super().__init__()
        self.model = model
        # A convolution, which the largest DeBERTas have, would mix the end of a row with the beginning of the next.
        has_convolution = getattr(model.config, "conv_kernel_size", 0) > 0
        self.family = None if has_convolution else FAMILIES.get(model.config.model_type)
        self.packed = packed and self.family is not None
        self._takes = inspect.signature(model.forward).parameters

    def forward(self, *parts: Rows) -> list[Tensor]:
        """Encode each part, such as queries and documents: rows to [N, L, D], meaningless behind a row's end."""
        if not self.packed:
            return [self._padded(rows) for rows in parts]
        layouts = [Layout.of(rows.length) for rows in parts]
        layout = Layout.of(torch.cat([rows.length for rows in parts])) if len(parts) > 1 else layouts[0]
        visible = torch.cat([rows.visible for rows in parts])
        attended = columns(layout.padding.shape[1])[None] < visible[:, None]
        hidden = self._call(
            torch.cat([own.pack(rows.ids) for own, rows in zip(layouts, parts, strict=True)])[None],
            torch.cat([own.pack(rows.segments) for own, rows in zip(layouts, parts, strict=True)])[None],
            layout.position[None],
            RowAttention(attended, layout),
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
        positions = columns(rows.ids.shape[1])[None]
        if self.family is not None:
            return self._call(rows.ids, rows.segments, positions, RowAttention(rows.attended))
        mask = rows.attended.to(torch.int64)
        return self._run(input_ids=rows.ids, attention_mask=mask, token_type_ids=rows.segments)

    def _call(self, ids: Tensor, segments: Tensor, positions: Tensor, attend: RowAttention) -> Tensor:
        assert self.family is not None  # noqa: S101 - the callers have looked
        positions = positions + self.family.first_position(self.model.config)
        with self.family.patch(self.model, attend, positions):
            # Left out, models take segments from a buffer as long as one row may be.
            return self._run(
                input_ids=ids,
                position_ids=positions,
                token_type_ids=segments,
                use_cache=False,
            )

    def _run(self, **arguments: Tensor | bool) -> Tensor:
        hidden: Tensor = self.model(
            **{name: value for name, value in arguments.items() if name in self._takes}
        ).last_hidden_state
        return hidden
