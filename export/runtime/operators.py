"""The operators of torch programs that know rows: attention, MaxSim and SPLADE's terms, for a CPU and for CUDA.

A program holds them by name, so they must be imported before it is loaded. R rows of T tokens stand one behind the
other; `starts`, int32 [R + 1], says where each begins. Entries of the torch backend hold a copy of this file, which
needs torch only.
"""

import inspect
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn

MASKED = -1e4
"""Score of what is not seen: its weight is 0 in every precision, and it is finite in float16."""
MOST_WIDTH = 256
"""Dimensions of a head that flash attention takes (aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp)."""
SLICE = 256
"""Tokens of a query, and of a document, that MaxSim compares at a time."""
LOGITS = 2**24
"""Logits of a vocabulary that are in memory at a time: 32 MiB in half precision."""
LEAST_LOGITS = 256
"""Words of the vocabulary that are computed together at least, however many tokens there are."""


@torch.library.custom_op("conch::attend", mutates_args=(), device_types="cpu")
def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    longest: int,  # noqa: ARG001 - CUDA's kernel asks for it
    scale: float,
    left: int,
    right: int,
) -> Tensor:
    """Attention of every token to its own row, [T, H, d].

    Args:
        query: [T, H, d].
        key: [T, K, d], where K divides H (grouped-query attention, arXiv 2305.13245).
        value: as key.
        starts: int32 [R + 1].
        longest: at least the length of the longest row, and known without asking the device.
        scale: the factor on the scores.
        left: tokens before it that a token sees; -1 for all.
        right: the same behind it.
    """
    mixed = query.new_empty(query.shape)
    causal = left < 0 and right == 0
    for begin, end in pairwise(starts.tolist()):
        if begin < end:
            place = torch.arange(end - begin)
            mask = None if causal else _mask(place[:, None], place[None], left, right)
            # With a dimension for a batch: torch's fast kernel asks for it.
            own, keys, values = (heads[None, begin:end] for heads in (query, key, value))
            mixed[begin:end] = _sdpa(own, keys, values, mask, scale, causal=causal)[0]
    return mixed


@attend.register_fake
def _(query: Tensor, *_: object) -> Tensor:
    return query.new_empty(query.shape)


@attend.register_kernel("cuda")
def _(  # pragma: needs a GPU
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scale: float, left: int, right: int
) -> Tensor:
    if has_flash(query.device, query.dtype, query.shape[2]):
        return _flash(query, key, value, starts, starts, longest, scale, left, right)
    lengths = starts[1:] - starts[:-1]
    return _padded(query, key, value, starts, lengths, longest, scale, left, right)


@torch.library.custom_op("conch::attend_visible", mutates_args=(), device_types="cpu")
def attend_visible(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    visible: Tensor,
    keys: Tensor,  # noqa: ARG001 - CUDA's kernel asks for them
    longest: int,
    scale: float,
    left: int,
    right: int,
) -> Tensor:
    """`attend` for rows of which some tokens are not seen: the expansion of ColBERT's queries.

    Args:
        query: as for `attend`, and so are those not named here.
        visible: int32 [R], the tokens at the front of each row that are seen.
        keys: int32 [sum of visible], the tokens that are seen, by their index.
    """
    return _padded(query, key, value, starts, visible, longest, scale, left, right)


@attend_visible.register_fake
def _(query: Tensor, *_: object) -> Tensor:
    return query.new_empty(query.shape)


@attend_visible.register_kernel("cuda")
def _(  # pragma: needs a GPU
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    visible: Tensor,
    keys: Tensor,
    longest: int,
    scale: float,
    left: int,
    right: int,
) -> Tensor:
    # The kernel counts windows from the ends of queries and keys, which differ here.
    if has_flash(query.device, query.dtype, query.shape[2]) and left < 0 and right < 0:
        seen = functional.pad(visible.cumsum(0, dtype=torch.int32), (1, 0))
        return _flash(query, key[keys], value[keys], starts, seen, longest, scale, left, right)
    return _padded(query, key, value, starts, visible, longest, scale, left, right)


@torch.library.custom_op("conch::maxsim", mutates_args=())
def maxsim(
    vectors: Tensor, counted: Tensor, starts: Tensor, queries: Tensor, longest_query: int, longest: int
) -> Tensor:
    """ColBERT's MaxSim as a mean, float32 [N, 1] (Khattab and Zaharia 2020, arXiv 2004.12832, equation 3).

    A query's tokens are compared with a slice of the documents' at a time, so that memory grows with neither's length.

    Args:
        vectors: [T, E], of any length; their cosines count.
        counted: bool [T], the tokens that count.
        starts: int32 [R + 1]: M queries, then N documents, then one more row.
        queries: int32 [N], the row of each document's query.
        longest_query: at least the length of the longest query.
        longest: at least that of the longest row.
    """
    unit = functional.normalize(vectors.float(), dim=-1)
    pairs = queries.shape[0]
    first = starts.shape[0] - 2 - pairs  # the first document
    begin, end = starts[:-1], starts[1:]
    total = unit.new_zeros(pairs)
    number = unit.new_zeros(pairs)
    for place in range(0, longest_query, SLICE):
        tokens = torch.arange(place, min(place + SLICE, longest_query), device=starts.device)
        query, own = _slice(unit, counted, begin[queries], end[queries], tokens)  # [N, S, E], [N, S]
        best = torch.full(own.shape, MASKED, device=unit.device)
        for other in range(0, longest, SLICE):
            tokens = torch.arange(other, min(other + SLICE, longest), device=starts.device)
            document, seen = _slice(unit, counted, begin[first:][:pairs], end[first:][:pairs], tokens)
            cosine = (query @ document.transpose(1, 2)).masked_fill(~seen[:, None], MASKED)
            best = torch.maximum(best, cosine.amax(2))
        total += (best.clamp(-1, 1) * own).sum(1)  # of some documents no token counts
        number += own.sum(1)
    return (total / number.clamp(min=1))[:, None]


@maxsim.register_fake
def _(vectors: Tensor, counted: Tensor, starts: Tensor, queries: Tensor, *_: object) -> Tensor:  # noqa: ARG001
    return vectors.new_empty(queries.shape[0], 1, dtype=torch.float32)


@torch.library.custom_op("conch::splade", mutates_args=())
def splade(hidden: Tensor, weight: Tensor, bias: Tensor, starts: Tensor, logs: int, total: bool) -> Tensor:
    """The weights of all words in each row, float32 [R, V] (Formal et al. 2021, arXiv 2107.05720 and 2109.10086).

    A word's weight is the largest over the row's tokens, or the sum, of log(1 + relu(logit)). Logits are computed for
    a slice of the vocabulary at a time, so that memory does not grow with tokens x vocabulary.

    Args:
        hidden: [T, D].
        weight: [V, D]; its type is that of the products.
        bias: float32 [V].
        starts: int32 [R + 1]. The last row, which is nobody's, gets zeros.
        logs: how often log(1 + x) is taken: 1, or 2 (arXiv 2504.14839).
        total: whether a word's weight is the sum.
    """
    hidden = hidden.to(weight.dtype)
    words = len(weight)
    weights = torch.empty(starts.shape[0] - 1, words, device=hidden.device)
    step = max(LEAST_LOGITS, LOGITS // max(1, len(hidden)))
    for begin in range(0, words, step):
        part = slice(begin, begin + step)
        logits = functional.linear(hidden, weight[part])  # [T, S]
        if total:
            weights[:, part] = _reduce(_saturated(logits.float() + bias[part], logs), starts, "sum")
        else:
            largest = _reduce(logits, starts, "max").float()  # of a row without tokens -inf
            weights[:, part] = _saturated(largest + bias[part], logs)
    return weights


@splade.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor, starts: Tensor, *_: object) -> Tensor:  # noqa: ARG001
    return hidden.new_empty(starts.shape[0] - 1, weight.shape[0], dtype=torch.float32)


def _saturated(logits: Tensor, logs: int) -> Tensor:
    """log(1 + relu(x)), once or several times."""
    weights = logits.relu()
    for _ in range(logs):
        weights = weights.log1p()
    return weights


def _reduce(values: Tensor, starts: Tensor, reduction: str) -> Tensor:
    """The largest or the sum of each row's values, [T, S] to [R, S]."""
    if values.is_cuda:  # pragma: needs a GPU
        offsets = torch.cat([starts[:-1], starts[-2:-1]]).to(torch.int64)  # the last row counts as empty
        # Unsafe: it would ask the device whether offsets are ascending.
        return torch.segment_reduce(values, reduction, offsets=offsets, axis=0, unsafe=True)
    empty = 0.0 if reduction == "sum" else -torch.inf
    reduced = torch.full((starts.shape[0] - 1, values.shape[1]), empty, dtype=values.dtype)
    for row, (begin, end) in enumerate(pairwise(starts[:-1].tolist())):  # its kernel for CPUs goes number by number
        if begin < end:
            reduced[row] = values[begin:end].sum(0) if reduction == "sum" else values[begin:end].amax(0)
    return reduced


@cache
def has_flash(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether attention by cumulative lengths runs here, for heads of so many dimensions.

    Otherwise rows are padded to the longest of the batch.
    """
    if device.type == "cpu":
        return True
    fits = width <= MOST_WIDTH and dtype in (torch.float16, torch.bfloat16)  # pragma: needs a GPU
    return fits and torch.cuda.get_device_capability(device) >= (8, 0)  # pragma: needs a GPU


@cache
def _options() -> dict[str, Any]:
    """Arguments of varlen_attn that torch 2.11 does not have. Its kernel takes grouped heads without being told."""
    options = {"enable_gqa": True, "num_splits": 1}  # without splits a row does not depend on its neighbours
    known = inspect.signature(varlen_attn).parameters
    return {name: value for name, value in options.items() if name in known}


def _flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    key_starts: Tensor,
    longest: int,
    scale: float,
    left: int,
    right: int,
) -> Tensor:
    width = query.shape[2]
    missing = -width % 8  # the kernel takes multiples of 8
    if missing:  # pragma: needs a GPU
        query, key, value = (functional.pad(each, (0, missing)) for each in (query, key, value))
    mixed: Any = varlen_attn(
        _dense(query),
        _dense(key),
        _dense(value),
        starts,
        key_starts,
        longest,
        longest,
        scale=scale,
        window_size=(left, right),
        **_options(),
    )
    wanted: Tensor = mixed[..., :width].contiguous() if missing else mixed
    return wanted


def _dense(heads: Tensor) -> Tensor:
    """Heads whose dimensions lie side by side, which is all that the kernel asks for."""
    return heads if heads.stride(-1) == 1 else heads.contiguous()


def _padded(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    visible: Tensor,
    longest: int,
    scale: float,
    left: int,
    right: int,
) -> Tensor:
    """Attention by rows padded to the longest, where no kernel takes rows as they are."""
    begin, end = starts[:-1, None], starts[1:, None]
    column = torch.arange(longest, device=query.device)
    # A token of the row itself, even behind its end: 0 times a value that is not finite would come in.
    cell = torch.minimum(begin + column, (end - 1).clamp(min=0))  # [R, L]
    seen = (column < visible[:, None])[:, None, None]  # [R, 1, 1, L]
    window = _mask(column[:, None], column[None], left, right)
    mask = seen if window is None else seen & window
    groups = query.shape[1] // key.shape[1]  # no kernel takes both grouped heads and a mask without making the scores
    key, value = (each.repeat_interleave(groups, 1) if groups > 1 else each for each in (key, value))
    # A row without tokens, or a window without any that is seen, must not be NaN.
    bias = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, MASKED)
    mixed = _sdpa(query[cell], key[cell], value[cell], bias, scale)  # [R, L, H, d]
    if window is not None:
        mixed = mixed * mask.any(-1).transpose(1, 2)[..., None]
    row = torch.searchsorted(starts[1:], torch.arange(len(query), device=query.device, dtype=torch.int32), right=True)
    # The last row, which is nobody's, may be longer.
    place = (torch.arange(len(query), device=query.device) - starts[row]).clamp(max=longest - 1)
    return mixed[row, place].contiguous()


def _mask(query: Tensor, key: Tensor, left: int, right: int) -> Tensor | None:
    """Which keys are within the window of queries, by their places; None for all."""
    if left < 0 and right < 0:
        return None
    distance = key - query
    seen = torch.ones_like(distance, dtype=torch.bool)
    if left >= 0:
        seen = seen & (distance >= -left)
    if right >= 0:
        seen = seen & (distance <= right)
    return seen


def _sdpa(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, *, causal: bool = False
) -> Tensor:
    """Attention of [N, L, H, d]."""
    mixed = functional.scaled_dot_product_attention(
        query.transpose(-3, -2),
        key.transpose(-3, -2),
        value.transpose(-3, -2),
        attn_mask=mask,
        is_causal=causal,
        scale=scale,
        enable_gqa=query.shape[-2] != key.shape[-2],
    )
    return mixed.transpose(-3, -2)


def _slice(vectors: Tensor, counted: Tensor, begin: Tensor, end: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """The vectors at some places of rows, [N, S, E], and which of them are in the row and count, bool [N, S]."""
    token = begin[:, None] + place
    inside = token < end[:, None]
    token = token.clamp(max=len(vectors) - 1)
    return vectors[token], inside & counted[token]
