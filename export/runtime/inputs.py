"""The inputs of a torch program: rows one behind the other, written by the host into one buffer that is copied at once.

Rows are the texts, or the distinct queries and then the documents of pairs, and always one more: the dummy, which takes
the tokens that fill up to a multiple. Rows without tokens may stand behind the queries and behind the documents, since
a bucket has room for more. Images stand one behind the other too, with an empty one behind them. Entries of the torch
backend hold a copy of this file, which needs numpy only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from .contract import IMAGE_TOKENS, Array, Row
from .vision import TYPES, Grid, Vision, image_starts, longest_image, rope_positions

Ints = NDArray[np.int32]

ALIGNMENT = 8
"""Tokens, and the longest row, are multiples of it: products are fastest so, and some families want a minimum."""
SECTION = 4
"""Each input begins at a multiple of so many int32, 16 bytes: compiled programs read no less at a time."""
EMPTY = ("longest", "longest_query", "longest_image")
"""Inputs without elements, whose first size is what they say."""


@dataclass(frozen=True, slots=True)
class Expansion:
    """Rows of one field shorter than `length` are filled up with a token (ColBERT's queries, SigLIP's texts)."""

    field: str
    length: int
    token: int
    attended: bool
    """Whether the row's own tokens attend to those."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a program's inputs."""

    tokens: int
    """T, with the dummy's; for images, what they count as."""
    rows: int
    """R, with the dummy; for images, their number."""
    longest: int
    """At least the tokens of the longest row."""
    pairs: int = 0
    """N of late interaction, whose queries are the first `rows - 1 - pairs` rows."""
    longest_query: int = 0
    longest_image: int = 0
    """At least the patches of the largest image, of images of any size."""

    @property
    def queries(self) -> int:
        """Rows before the documents of pairs."""
        return self.rows - 1 - self.pairs

    def holds(self, other: "Sizes") -> bool:
        """Whether the rows of a pack of other sizes have room in these."""
        return (
            other.tokens <= self.tokens
            and other.rows <= self.rows
            and other.longest <= self.longest
            and other.pairs <= self.pairs
            and other.longest_query <= self.longest_query
            and (not self.pairs or other.queries <= self.queries)
        )


class Pack:
    """Rows that are computed together."""

    def __init__(
        self,
        fields: Sequence[str],
        rows: Sequence[Row],
        expansion: Expansion | None = None,
        vision: Vision | None = None,
    ) -> None:
        """Read rows.

        Args:
            fields: names of the fields of a row.
            rows: at least one.
            expansion: how short rows are filled up, if they are.
            vision: what the grids of their images are made into, if these are of any size.
        """
        columns: dict[str, Sequence[Array]] = dict(zip(fields, zip(*rows, strict=True), strict=True))
        self._patches, grids = columns.pop("patches", ()), columns.pop("grids", ())
        self.number = len(rows)
        """Rows of the output that mean anything."""
        self._pixels = columns.pop("pixels", None)
        self._queries = 0
        self._query: list[int] = []  # of each pair
        texts = []
        for field in ("input_ids", "query_ids", "document_ids"):
            values = columns.pop(field, ())
            if field == "query_ids" and values:
                values, self._query = _distinct(values)
                self._queries = len(values)
            texts += [_expanded(ids, expansion, field) for ids in values]
        self._ids = [ids for ids, _ in texts]
        self._own = [own for _, own in texts]
        self._lengths = [len(ids) for ids in self._ids]
        self._columns = columns  # a number for each row
        self._grids = [[(height, width) for height, width in of_row.tolist()] for of_row in grids]
        self.has_images = any(self._grids)
        """Whether a row has images of any size."""
        # Tracing knows no single merged patch: then the empty image is one too, whose token is the dummy's.
        merged = 0 if vision is None else self.patches // vision.merge**2
        self._filler: list[Grid] = [(vision.merge, vision.merge)] if vision is not None and merged == 1 else []
        self.sizes = self._sizes()
        """The least that these rows take."""
        self._made = {} if vision is None or not self.has_images else self._make(vision)

    def _make(self, vision: Vision) -> dict[str, Array]:
        """The inputs that depend on grids."""
        grids = [grid for of_row in self._grids for grid in of_row]
        made: dict[str, Array] = {
            "image_starts": image_starts(grids, self._filler),
            **vision.make([*grids, *self._filler]),
        }
        if vision.token >= 0:
            before = sum(self._lengths[: self._queries])
            texts = self._ids[self._queries :]
            places = before + np.flatnonzero(np.concatenate(texts) == vision.token)
            made["places"] = np.append(places, [self.sizes.tokens - 1] * len(self._filler)).astype(np.int32)
        if vision.mrope:
            rows = [rope_positions(ids, -1, (), 1) for ids in self._ids[: self._queries]]
            rows += [
                rope_positions(ids, vision.token, of_row, vision.merge)
                for ids, of_row in zip(self._ids[self._queries :], self._grids, strict=True)
            ]
            rows.append(np.zeros((3, self.sizes.tokens - sum(self._lengths)), np.int32))
            made["positions"] = np.concatenate(rows, 1)
        return made

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the inputs that texts alone have not."""
        found = {name: value.shape for name, value in self._made.items()}
        if self.has_images:
            filler = sum(height * width for height, width in self._filler)
            found["patches"] = (self.patches + filler, self._patches[0].shape[1])
        return found

    @property
    def patches(self) -> int:
        """Of all images of any size."""
        return sum(map(len, self._patches))

    def _sizes(self) -> Sizes:
        if self._pixels is not None:
            images = max(2, self.number)  # of one, tracing knows no other sizes
            return Sizes(images * IMAGE_TOKENS, images, 0)
        longest_image = self._longest_image()
        if not self._ids:
            return Sizes(0, self.number, 0, longest_image=longest_image)
        tokens = _aligned(sum(self._lengths) + len(self._filler))
        longest = _aligned(max(self._lengths))
        if not self._queries:
            return Sizes(tokens, self.number + 1, longest, longest_image=longest_image)
        pairs = max(2, self.number)
        longest_query = max(1, *self._lengths[: self._queries])
        return Sizes(tokens, self._queries + pairs + 1, longest, pairs, _aligned(longest_query), longest_image)

    def _longest_image(self) -> int:
        return longest_image([grid for of_row in self._grids for grid in of_row]) if self.has_images else 0

    @property
    def text_tokens(self) -> list[tuple[int, int]]:
        """Where the tokens of each row's text or document are among all."""
        return self._places(self._queries, len(self._lengths))

    @property
    def query_tokens(self) -> list[tuple[int, int]]:
        """The same of each pair's query."""
        places = self._places(0, self._queries)
        return [places[query] for query in self._query]

    def _places(self, begin: int, end: int) -> list[tuple[int, int]]:
        edges = list(accumulate(self._lengths, initial=0))
        return list(pairwise(edges[begin : end + 1]))

    @property
    def tokens(self) -> int:
        """Tokens without the dummy's."""
        return sum(self._lengths) if self._pixels is None else self.number * IMAGE_TOKENS

    def write(self, inputs: Mapping[str, Array], sizes: Sizes) -> None:
        """Write the inputs of a program.

        Args:
            inputs: where, as `Layout.views` gives them out.
            sizes: of those; at least this pack's.
        """
        if self._pixels is not None:
            np.stack(self._pixels, out=inputs["pixels"][: self.number])
            inputs["pixels"][self.number :] = 0
            return
        if self.has_images:
            np.concatenate(self._patches, out=inputs["patches"][: self.patches])
            inputs["patches"][self.patches :] = 0
            for name, made in self._made.items():
                inputs[name][:] = made
        if not self._ids:
            return
        texts = len(self._ids)
        places: slice | NDArray[np.int64] = slice(0, texts)
        if self._queries:
            places = np.arange(texts)
            places[self._queries :] += sizes.queries - self._queries
        lengths = np.zeros(sizes.rows, np.int32)
        lengths[places] = self._lengths
        used = self.tokens
        lengths[-1] = sizes.tokens - used
        write_rows(inputs, lengths)
        ids = inputs["ids"]
        np.concatenate(self._ids, out=ids[:used], casting="unsafe")
        ids[used:] = 0
        for name, values in self._columns.items():
            inputs[name][:] = 0
            inputs[name][places] = values
        if self._queries:
            inputs["query"][: self.number] = self._query
            inputs["query"][self.number :] = 0
        if "visible" in inputs:
            visible, keys = inputs["visible"], inputs["keys"]
            visible[:] = lengths
            visible[places] = self._own
            seen = np.flatnonzero(inputs["position"] < np.repeat(visible, lengths))
            keys[: len(seen)] = seen
            keys[len(seen) :] = 0  # belong to no row


def write_rows(inputs: Mapping[str, Array], lengths: Ints) -> None:
    """Write where rows of some lengths, the dummy's too, begin, and where each token is."""
    starts = inputs["starts"]
    starts[0] = 0
    np.cumsum(lengths, out=starts[1:])
    inputs["row"][:] = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    inputs["position"][:] = np.arange(len(inputs["position"]), dtype=np.int32) - np.repeat(starts[:-1], lengths)
    inputs["position"][starts[-2] :] = 0  # the dummy may be longer than the model's table of positions


class Layout:
    """Where a program's inputs lie in a buffer of int32."""

    def __init__(
        self,
        names: Sequence[str],
        sizes: Sizes,
        image: tuple[int, ...] = (),
        more: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        """Lay out inputs of some sizes.

        Args:
            names: the program's inputs, in order.
            sizes: their sizes.
            image: the shape of an image of one size.
            more: the shapes of what images of any size have, `Pack.shapes`.
        """
        shapes = {
            "starts": (sizes.rows + 1,),
            **dict.fromkeys(("ids", "position", "row", "keys"), (sizes.tokens,)),
            **dict.fromkeys(("first_length", "prompt_length", "visible"), (sizes.rows,)),
            "query": (sizes.pairs,),
            "pixels": (sizes.rows, *image),
            **(more or {}),
        }
        self.sections: dict[str, tuple[int, int, tuple[int, ...]]] = {}
        """Begin and end of each input, and its shape."""
        self.size = 0
        """Of the buffer."""
        for name in names:
            if name in EMPTY:
                continue
            shape = shapes[name]
            count = -(-int(np.prod(shape)) * np.dtype(dtype(name)).itemsize // 4)
            self.sections[name] = (self.size, self.size + count, shape)
            self.size += -(-count // SECTION) * SECTION

    def views(self, buffer: Ints) -> dict[str, Array]:
        """The inputs in a buffer."""
        return {
            name: buffer[begin:end].view(dtype(name))[: int(np.prod(shape))].reshape(shape)
            for name, (begin, end, shape) in self.sections.items()
        }


def dtype(name: str) -> type[np.generic]:
    """The type of an input in the buffer."""
    return np.uint8 if name == "pixels" else TYPES.get(name, np.int32)


def _aligned(tokens: int) -> int:
    return -(-tokens // ALIGNMENT) * ALIGNMENT


def _distinct(values: Sequence[Array]) -> tuple[list[Array], list[int]]:
    """The distinct values, and which of them each was."""
    known: dict[bytes, int] = {}
    found: list[Array] = []
    which = []
    for value in values:
        index = known.setdefault(value.tobytes(), len(found))
        if index == len(found):
            found.append(value)
        which.append(index)
    return found, which


def _expanded(ids: Array, expansion: Expansion | None, field: str) -> tuple[Array, int]:
    """A row filled up if it is short, and how many of its tokens are seen."""
    if expansion is None or field != expansion.field or not len(ids) or len(ids) >= expansion.length:
        return ids, len(ids)
    filled = np.full(expansion.length, expansion.token, ids.dtype)
    filled[: len(ids)] = ids
    return filled, expansion.length if expansion.attended else len(ids)
