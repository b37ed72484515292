"""Rows of token ids, which a text graph first makes of its inputs: padded, or one behind the other.

Both forms answer the same questions, so that poolings and heads are written once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from export.packing.layout import Layout, columns
from export.runtime.inputs import ALIGNMENT
from export.runtime.vision import MADE


@dataclass(frozen=True, slots=True)
class Rows:
    """N rows of token ids, padded at the end to the longest, L."""

    ids: Tensor
    """int64 [N, L]."""
    length: Tensor
    """int64 [N], tokens to compute of each row."""
    visible: Tensor
    """int64 [N], tokens of each row that others attend to: all, or those before its expansion."""
    first_length: Tensor | None = None
    """int64 [N], tokens of the first segment, for models with segment embeddings."""
    prompt_length: Tensor | None = None
    """int64 [N], tokens at the front of each row that are not pooled."""

    @property
    def valid(self) -> Tensor:
        """bool [N, L], true where there is a token."""
        return self._columns() < self.length[:, None]

    @property
    def attended(self) -> Tensor:
        """bool [N, L], true where there is a token that others attend to."""
        return self._columns() < self.visible[:, None]

    @property
    def pooled(self) -> Tensor:
        """bool [N, L], true where there is a token that counts for the vector of its row."""
        if self.prompt_length is None:
            return self.valid
        return self.valid & (self._columns() >= self.prompt_length[:, None])

    @property
    def pooled_length(self) -> Tensor:
        """int64 [N], how many of those there are, and 1 where there are none."""
        if self.prompt_length is None:
            return self.length
        return (self.length - self.prompt_length).clamp(min=1)

    @property
    def position(self) -> Tensor:
        """int64 [1, L], the place of each token in its row."""
        return self._columns()

    @property
    def hides(self) -> bool:
        """Whether there may be tokens that others do not attend to."""
        return self.visible is not self.length

    @property
    def segments(self) -> Tensor:
        """int64 [N, L], the segment of each token: 0 or 1."""
        if self.first_length is None:
            return torch.zeros_like(self.ids)
        return (self._columns() >= self.first_length[:, None]).to(torch.int64)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over each row, [N, L, D] to [N, D]."""
        return values.sum(1)

    def max(self, values: Tensor) -> Tensor:
        """The same with the largest."""
        return values.amax(1)

    def first(self, values: Tensor) -> Tensor:
        """The values of the first tokens, [N, L, D] to [N, D]."""
        return values[:, 0]

    def at(self, values: Tensor, place: Tensor) -> Tensor:
        """The values at a place of each row, int64 [N], the same way."""
        return values.gather(1, place[:, None, None].expand(-1, 1, values.shape[2]))[:, 0]

    def _columns(self) -> Tensor:
        return columns(self.ids.shape[1])[None]

    def expanded(self, to: int, token: int, *, attended: bool) -> "Rows":
        """Rows shorter than `to` tokens filled up with a token, which the others attend to or not.

        ColBERT expands queries with its mask token (Khattab and Zaharia 2020, arXiv 2004.12832, section 3.2), and
        SigLIP has only ever seen texts of one length.
        """
        length = torch.where(self.length > 0, self.length.clamp(min=to), 0)  # of nothing there is nothing to expand
        width = torch.maximum(torch.as_tensor(self.ids.shape[1]), torch.tensor(to))
        column = columns(width)
        ids = self.ids[:, torch.minimum(column, torch.as_tensor(self.ids.shape[1]) - 1)]
        ids = torch.where(column[None] < self.length[:, None], ids, token)
        return Rows(ids, length, length if attended else self.length, self.first_length)


@dataclass(frozen=True, slots=True)
class PackedImages:
    """I images of P patches one behind the other, as a host lays them out, and an empty one behind them."""

    patches: Tensor
    """uint8 [P, B], not normalized."""
    starts: Tensor
    """int32 [I + 2], where each image begins, and P twice."""
    longest: int
    """At least the patches of the largest image. A size of a tensor."""
    places: Tensor
    """int64 [V], the token that takes each merged patch; [0] for images without a text."""
    made: Mapping[str, Tensor]
    """What `Vision.make` makes, by its names; int64 where that is int32, except where something starts."""

    @classmethod
    def of(cls, given: Mapping[str, Tensor]) -> "PackedImages":
        """Take them out of a program's inputs."""
        return cls(
            patches=given["patches"],
            starts=given["image_starts"],
            longest=given["longest_image"].shape[0],
            places=given["places"].to(torch.int64) if "places" in given else torch.zeros(0, dtype=torch.int64),
            made={
                name: value if name.endswith("starts") or value.is_floating_point() else value.to(torch.int64)
                for name, value in given.items()
                if name in MADE
            },
        )


@dataclass(frozen=True, slots=True)
class PackedRows:
    """R rows of T tokens one behind the other, as a host lays them out: no size depends on a value.

    A row may be empty; the last one often is, since there are always two. Values of tokens are [1, T, D].
    """

    ids: Tensor
    """int64 [1, T]."""
    place: Tensor
    """int64 [T], the place of each token in its row."""
    row: Tensor
    """int64 [T], the row of each token."""
    starts: Tensor
    """int32 [R + 1], where each row begins, and T."""
    longest: int
    """At least the length of the longest row, L. A size of a tensor, so that it is known without asking the device."""
    first_length: Tensor | None = None
    """int64 [R], tokens of the first segment, for models with segment embeddings."""
    prompt_length: Tensor | None = None
    """int64 [R], tokens at the front of each row that are not pooled."""
    visible: Tensor | None = None
    """int32 [R], tokens of each row that others attend to; all by default."""
    keys: Tensor | None = None
    """int32 [K], which those are."""
    queries: Tensor | None = None
    """int32 [N], of pairs: the row of each one's query. The documents are the last N rows but one."""
    longest_query: int = 0
    """Like `longest`, of the queries."""
    images: PackedImages | None = None
    """The images in these rows, if some have some."""
    positions: Tensor | None = None
    """int64 [3, T], the positions of each token where it has three (M-RoPE); with images only."""

    @classmethod
    def from_inputs(cls, given: Mapping[str, Tensor]) -> "PackedRows":
        """Rows out of a program's inputs by name: see docs/repository-entry.md."""
        whole = {
            name: given[name].to(torch.int64)
            for name in ("first_length", "prompt_length", "positions")
            if name in given
        }
        return cls(
            ids=given["ids"].to(torch.int64)[None],
            place=given["position"].to(torch.int64),
            row=given["row"].to(torch.int64),
            starts=given["starts"],
            longest=given["longest"].shape[0],
            visible=given.get("visible"),
            keys=given.get("keys"),
            queries=given.get("query"),
            longest_query=given["longest_query"].shape[0] if "longest_query" in given else 0,
            images=PackedImages.of(given) if "patches" in given else None,
            **whole,
        )

    @classmethod
    def of(cls, rows: Sequence[Tensor]) -> "PackedRows":
        """Lay out ids, int64 [L] each, with an empty row behind them, as a host does."""
        lengths = torch.tensor([*map(len, rows), 0])
        place = torch.cat([torch.arange(len(row)) for row in rows])
        row = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        starts = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
        longest = -(-int(lengths.max()) // ALIGNMENT) * ALIGNMENT
        return cls(torch.cat(list(rows))[None], place, row, starts, longest)

    @property
    def length(self) -> Tensor:
        """int64 [R]."""
        return (self.starts[1:] - self.starts[:-1]).to(torch.int64)

    @property
    def position(self) -> Tensor:
        """int64 [1, T], the place of each token in its row."""
        return self.place[None]

    @property
    def pooled(self) -> Tensor:
        """bool [1, T], true where a token counts for the vector of its row."""
        if self.prompt_length is None:
            return torch.ones_like(self.position, dtype=torch.bool)
        return self.position >= self.prompt_length[self.row][None]

    @property
    def pooled_length(self) -> Tensor:
        """int64 [R], how many of those there are, and 1 where there are none."""
        length = self.length if self.prompt_length is None else self.length - self.prompt_length
        return length.clamp(min=1)

    @property
    def segments(self) -> Tensor:
        """int64 [1, T], the segment of each token: 0 or 1."""
        if self.first_length is None:
            return torch.zeros_like(self.ids)
        return (self.position >= self.first_length[self.row][None]).to(torch.int64)

    @property
    def layout(self) -> Layout:
        """The way to the padded form and back."""
        start, length = self.starts[:-1].to(torch.int64), self.length
        column = torch.arange(self.longest, device=start.device)
        last = (start + length - 1).clamp(min=0)
        padding = torch.minimum(start[:, None] + column[None], last[:, None])
        return Layout(length, start, self.place, padding, packing=self.row * self.longest + self.place)

    @property
    def first_document(self) -> int:
        """Of pairs: the row of the first document, behind the queries."""
        assert self.queries is not None  # noqa: S101 - rows of late interaction have them
        return self.starts.shape[0] - 2 - self.queries.shape[0]

    @property
    def is_query(self) -> Tensor:
        """bool [T], of pairs: whether a token is one of a query."""
        return self.row < self.first_document

    def padded(self) -> "Rows":
        """These rows in the other form, padded to L."""
        length = self.length
        visible = length if self.visible is None else self.visible.to(torch.int64)
        return Rows(self.layout.pad(self.ids[0]), length, visible, self.first_length, self.prompt_length)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over each row, [1, T, D] to [R, D]."""
        return self._reduce(values, "sum")

    def max(self, values: Tensor) -> Tensor:
        """The same with the largest."""
        return self._reduce(values, "max")

    def first(self, values: Tensor) -> Tensor:
        """The values of the first tokens, [1, T, D] to [R, D]."""
        return self.at(values, torch.zeros_like(self.length))

    def at(self, values: Tensor, place: Tensor) -> Tensor:
        """The values at a place of each row, int64 [R], the same way."""
        token = (self.starts[:-1] + place).clamp(0, values.shape[1] - 1)  # of an empty row, another's
        return values[0, token]

    def _reduce(self, values: Tensor, reduction: str) -> Tensor:
        # The last row is nobody's, and its many tokens would be added one by one: it counts as empty.
        offsets = torch.cat([self.starts[:-1], self.starts[-2:-1]]).to(torch.int64)
        # Unsafe: it would ask the device whether offsets are ascending.
        return torch.segment_reduce(values[0].contiguous(), reduction, offsets=offsets, axis=0, unsafe=True)


def from_ragged(ids: Tensor, stride: Tensor, length: Tensor, padding: int) -> Rows:
    """Rows out of what Triton's ragged batching delivers.

    Args:
        ids: int64, the rows one behind the other, each `stride` long.
        stride: integers [N], the stored length of each row, tokens and what pads them.
        length: integers [N, 1], the real tokens of each row, at most `stride`.
        padding: the token to pad with.
    """
    stride = stride.to(torch.int64)
    length = torch.minimum(length.squeeze(1).to(torch.int64), stride).clamp(min=0)  # never into another's row
    start = torch.cumsum(stride, 0) - stride
    column = columns(length.max().clamp(min=1))
    valid = column[None] < length[:, None]
    place = torch.where(valid, start[:, None] + column[None], torch.zeros_like(column)[None])
    return Rows(torch.where(valid, ids[place], padding), length, length)


def to_ragged(values: Tensor, stride: Tensor, length: Tensor) -> Tensor:
    """Values of tokens in the layout of what `from_ragged` was given: [N, L, ...] to [sum of strides, ...].

    They are 0 behind a row's end.
    """
    stride = stride.to(torch.int64)
    length = length.squeeze(1).to(torch.int64)
    end = torch.cumsum(stride, 0)
    token = columns(stride.sum())
    row = (token[:, None] >= end[None]).to(torch.int64).sum(1)
    place = token - (end - stride)[row]
    inside = place < length[row]
    width = torch.as_tensor(values.shape[1])
    flat = values.reshape(-1, *map(int, values.shape[2:]))  # numbers, so that the output's shape has some
    flat = flat[row * width + torch.minimum(place, width - 1)]
    return torch.where(inside.reshape(-1, *[1] * (flat.dim() - 1)), flat, torch.zeros((), dtype=flat.dtype))


def from_rectangle(ids: Tensor, length: Tensor, padding: int) -> Rows:
    """Rows out of a padded batch: ids int64 [N, L] with anything behind the real tokens, length integers [N, 1]."""
    length = length.squeeze(1).to(torch.int64)
    valid = columns(ids.shape[1])[None] < length[:, None]
    return Rows(torch.where(valid, ids, padding), length, length)
