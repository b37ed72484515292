"""The contract between an entry and its users, the gateway and model.py: roles, tensors and parameters.

The gateway's side is gateway/contract.py; docs/repository-entry.md describes both. Needs numpy only.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Ids = NDArray[np.int64]
Row = tuple[Array, ...]
"""One row of a batch, with a value for each field of the graph: token ids 1-D and without padding, a number 0-D, or the
pixels of an image."""

NOTHING: Ids = np.zeros(1, np.int64)
"""What a row without tokens is stored as."""
IMAGE_TOKENS = 128
"""Tokens that an image of one size counts as in a pack."""
MOST_PATCHES = 1 << 20
"""On a side of an image. No image has so many; the product of two stays within 64 bits."""


class InvalidTensorsError(ValueError):
    """The tensors of a request violate the contract."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on the input of a model."""

    max_tokens: int = 0
    """The largest number of token ids of one text."""
    vocabulary_size: int = 0
    """The number of token ids; each id is smaller."""
    image_token: int = -1
    """The id that stands for a merged patch of an image in a text."""
    image_merge: int = 1
    """Patches on a side of a merged one."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text per row, as token ids: three inputs of the graph."""

    ids: str
    """INT64 [b, L] at Triton, flattened in the graph."""
    length: str
    """INT32 [b, 1], the real tokens of each row."""
    stride: str
    """INT32 [b], the stored length of each row. Only the graph has it: Triton or the engine fills it in."""
    least: int = 1
    """Tokens of a row, at least."""

    @property
    def name(self) -> str:
        """The graph's input by which it is recognized."""
        return self.ids

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors of a request."""
        return (self.ids, self.length)

    def cost(self, value: Array) -> int:
        """Tokens that a row's value counts for in a pack."""
        return len(value)

    def feed(self, values: Sequence[Array]) -> dict[str, Array]:
        """The graph's inputs for a pack of rows."""
        length = np.fromiter(map(len, values), np.int32, len(values))
        stored = [value if len(value) else NOTHING for value in values]
        stride = np.maximum(length, len(NOTHING))
        return {self.ids: np.concatenate(stored), self.stride: stride, self.length: length[:, None]}

    def read(self, tensors: Mapping[str, Array], limits: Limits) -> list[Array]:
        """Take each row's ids out of a request's tensors, without their padding."""
        ids, length = tensors[self.ids], tensors[self.length]
        limit = min(ids.shape[1], limits.max_tokens)
        _check_range(self.length, length, self.least, limit)
        rows: list[Array] = [row[:n] for row, n in zip(ids, length[:, 0].tolist(), strict=True)]
        for row in filter(len, rows):
            _check_range(self.ids, row, 0, limits.vocabulary_size - 1)
        return rows


@dataclass(frozen=True, slots=True)
class Prefix:
    """The length of a segment at the front of a row, in tokens: INT32 [b, 1]."""

    name: str
    of: str
    """The length of the whole row."""
    least: int

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.name,)

    def cost(self, value: Array) -> int:  # noqa: ARG002
        return 0

    def feed(self, values: Sequence[Array]) -> dict[str, Array]:
        return {self.name: np.array(values, np.int32)[:, None]}

    def read(self, tensors: Mapping[str, Array], limits: Limits) -> list[Array]:  # noqa: ARG002
        lengths = tensors[self.name]
        if np.less(tensors[self.of], lengths).any():
            raise InvalidTensorsError(f"{self.name} must not exceed {self.of}")
        _check_range(self.name, lengths, self.least, None)
        return list(lengths[:, 0])


@dataclass(frozen=True, slots=True)
class Pixels:
    """One image per row, UINT8 [b, 3, H, W]."""

    name: str

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.name,)

    def cost(self, value: Array) -> int:  # noqa: ARG002
        return IMAGE_TOKENS

    def feed(self, values: Sequence[Array]) -> dict[str, Array]:
        return {self.name: np.stack(values)}

    def read(self, tensors: Mapping[str, Array], limits: Limits) -> list[Array]:  # noqa: ARG002
        return list(tensors[self.name])


@dataclass(frozen=True, slots=True)
class Patches:
    """The patches of each row's images one behind the other, UINT8 [b, P, B], padded at the end.

    A row's value is [P, B], without padding. B is 3 x size x size: one patch, channel first, not normalized.
    """

    name: str
    of: str
    """The grids of the images, which say how many there are."""

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.name,)

    def cost(self, value: Array) -> int:
        return len(value)

    def feed(self, values: Sequence[Array]) -> dict[str, Array]:
        return {self.name: padded(values, 1)}

    def read(self, tensors: Mapping[str, Array], limits: Limits) -> list[Array]:  # noqa: ARG002
        patches, grids = tensors[self.name], tensors[self.of]
        numbers = grids.astype(np.int64).prod(2).sum(1)
        _check_range(f"the patches of {self.of}", numbers, 0, patches.shape[1])
        return [row[:number] for row, number in zip(patches, numbers.tolist(), strict=True)]


@dataclass(frozen=True, slots=True)
class Grids:
    """The height and width of each row's images in patches, INT32 [b, I, 2], zeros behind the last.

    A row's value is [I, 2], without padding.
    """

    name: str

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.name,)

    def cost(self, value: Array) -> int:  # noqa: ARG002
        return 0

    def feed(self, values: Sequence[Array]) -> dict[str, Array]:
        return {self.name: padded(values, 1)}

    def read(self, tensors: Mapping[str, Array], limits: Limits) -> list[Array]:
        grids = tensors[self.name]
        _check_range(self.name, grids, 0, MOST_PATCHES)
        given = np.greater(grids, 0).all(2)
        numbers = given.sum(1).tolist()
        rows: list[Array] = [row[:number] for row, number in zip(grids, numbers, strict=True)]
        for row, number in zip(grids, numbers, strict=True):
            if row[number:].any() or (row % limits.image_merge).any():
                raise InvalidTensorsError(
                    f"{self.name} must be multiples of {limits.image_merge}, and 0 behind the last"
                )
        return rows


Field = Tokens | Prefix | Patches | Grids | Pixels

TEXT = Tokens("input_ids", "length", "row_stride")
FIRST_LENGTH = Prefix("first_length", "length", least=1)
"""The first segment, which has segment embeddings of its own."""
PROMPT_LENGTH = Prefix("prompt_length", "length", least=0)
"""The prompt, which is not pooled."""
QUERY = Tokens("query_ids", "query_length", "query_stride", least=0)
"""Of no tokens where only outputs of the document are wanted."""
DOCUMENT = Tokens("document_ids", "document_length", "document_stride")
PATCHES = Patches("patches", "grids")
"""Of the images of the text, or of the document of a pair; or of an image alone."""
GRIDS = Grids("grids")
PIXELS = Pixels("pixels")
FIELDS: tuple[Field, ...] = (TEXT, FIRST_LENGTH, PROMPT_LENGTH, QUERY, DOCUMENT, PATCHES, GRIDS, PIXELS)
"""All fields that a graph may have. The graph's inputs tell which it has."""


def text_field(fields: Sequence[Field]) -> Tokens:
    """The text, or the document of a pair, whose tokens outputs have values for."""
    return next(field for field in reversed(fields) if isinstance(field, Tokens))


Per = Literal["row", "token", "query token"]


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a graph. Its name says what it holds: see docs/repository-entry.md."""

    name: str
    shape: tuple[int, ...]
    """Of one value; () is a number."""
    per: Per = "row"
    """What each value is of: a row, a token of its text or document, or a token of its query, expansion included.

    Values of tokens stand one behind the other in the layout of the ids. Those of query tokens are padded with zeros to
    the longest query of the batch in a graph, and laid out as all tokens are in a torch program.
    """

    @property
    def dtype(self) -> type[np.generic]:
        """INT32 for ids of the vocabulary, else FP32."""
        return np.int32 if self.name == SPARSE_INDICES else np.float32

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape of one row at Triton, where tokens are padded."""
        return self.shape if self.per == "row" else (-1, *self.shape)


EMBEDDING = "embedding"
SPARSE_INDICES = "sparse_indices"
SPARSE_WEIGHTS = "sparse_weights"
TOKEN_VECTORS = "tokens"  # noqa: S105 - tokens of texts
QUERY_VECTORS = "query_tokens"
SCORE = "score"
OUTPUTS = (EMBEDDING, SPARSE_INDICES, SPARSE_WEIGHTS, TOKEN_VECTORS, QUERY_VECTORS, SCORE)
"""The names of all outputs that a graph may have. The graph itself tells which it has."""


def read_output(name: str, sizes: Sequence[int]) -> Output:
    """An output by its name and its sizes in a graph without padding, -1 where they change."""
    if name == QUERY_VECTORS:
        return Output(name, tuple(sizes[2:]), "query token")
    return Output(name, tuple(sizes[1:]), "token" if name == TOKEN_VECTORS or len(sizes) == 1 else "row")


Values = Array | list[Array]
"""An output of several rows: one value for each, [N, ...], or an array [L, ...] of its tokens for each."""


def in_order(output: Output, number: int, parts: Iterable[tuple[Sequence[int], Values]]) -> Values:
    """An output of all rows, out of what was computed of some at a time: zeros or no tokens where nothing was.

    Args:
        output: which.
        number: of all rows.
        parts: the places of rows among all, and their values.
    """
    if output.per == "row":
        values = np.zeros((number, *output.shape), output.dtype)
        for places, part in parts:
            values[places] = part
        return values
    rows = dict(pair for places, part in parts for pair in zip(places, part, strict=True))
    nothing = np.zeros((0, *output.shape), output.dtype)
    return [rows.get(place, nothing) for place in range(number)]


def padded(values: Sequence[Array], length: int = 0) -> Array:
    """Values of tokens, [L, ...] of each row, as one array [b, L, ...]: zeros behind the shorter rows.

    Args:
        values: at least one row.
        length: L, if it is more than that of the longest row.
    """
    longest = max(length, *map(len, values))
    stacked = np.zeros((len(values), longest, *values[0].shape[1:]), values[0].dtype)
    for row, value in zip(stacked, values, strict=True):
        row[: len(value)] = value
    return stacked


Role = Literal["text-embedding", "image-embedding", "cross-encoder", "classifier", "late-interaction"]
TEXT_EMBEDDING: Role = "text-embedding"
IMAGE_EMBEDDING: Role = "image-embedding"
CROSS_ENCODER: Role = "cross-encoder"
CLASSIFIER: Role = "classifier"
LATE_INTERACTION: Role = "late-interaction"


class Parameters(TypedDict, total=False):
    """The parameters of an entry that config.pbtxt names."""

    role: str
    name: str
    aliases: Sequence[str]
    default: bool
    dimensions: Sequence[int]
    text_weight: float
    max_tokens: int
    vocabulary_size: int
    batch_tokens: int
    length_buckets: Sequence[int]
    prompts: Mapping[str, str]
    default_prompt: str
    instructed_prompts: Mapping[str, str]
    variants: Sequence[str]
    variant: str
    activation: str
    positive_class: int
    labels: Sequence[str]
    template: Mapping[str, Any]
    max_query_tokens: int
    tokens_pooling: str
    image_height: int
    image_width: int
    image_resize: Mapping[str, int]
    image_resample: str
    image_patches: int
    image_token: int
    image_merge: int
    image_processor: Mapping[str, Any]
    max_images: int
    chat: Mapping[str, Any]
    graph: str
    precision: str
    digest: str
    source: str
    license: str


def write_parameters(parameters: Parameters) -> dict[str, str]:
    """Parameters as config.pbtxt holds them: as text, without those that are empty or false."""
    written = {key: _write(key, value) for key, value in parameters.items()}
    return {key: text for key, text in written.items() if text}


def _write(key: str, value: object) -> str:
    match value:
        case bool():
            return "true" if value else ""
        case Mapping() if key == "image_resize":
            return ",".join(f"{edge}={length}" for edge, length in value.items())
        case Mapping():
            return json.dumps(value, ensure_ascii=False) if value else ""
        case Sequence() if key == "labels":  # which may hold commas
            return json.dumps(value, ensure_ascii=False) if value else ""
        case Sequence() if not isinstance(value, str):
            return ",".join(map(str, value))
        case _:
            return str(value)


def read_rows(tensors: Mapping[str, Array], fields: Sequence[Field], limits: Limits) -> list[Row]:
    """Take the rows of one request out of its tensors, without their padding.

    Args:
        tensors: the inputs of every field, by name; rows are the first dimension, as in Triton.
        fields: the fields of the graph.
        limits: the limits of the model.

    Raises:
        InvalidTensorsError: a length is not in 1..min(L, max_tokens), an id is not in the vocabulary, images do not fit
            their patches or their text, or the tensors differ in rows. Checked here, because one invalid row would
            also corrupt the results of the other rows.
    """
    numbers = {name: len(tensors[name]) for field in fields for name in field.inputs}
    if len(set(numbers.values())) > 1:
        raise InvalidTensorsError(f"all inputs must have the same number of rows, not {numbers}")
    rows: list[Row] = list(zip(*(field.read(tensors, limits) for field in fields), strict=True))
    if GRIDS in fields:
        _check_images(rows, fields, limits)
    return rows


def _check_images(rows: Sequence[Row], fields: Sequence[Field], limits: Limits) -> None:
    """Check that the text of each row has a token for each merged patch of its images, side by side for each image."""
    grids = fields.index(GRIDS)
    texts = [field for field in fields if isinstance(field, Tokens)]
    for row in rows:
        if not texts:
            if len(row[grids]) != 1:
                raise InvalidTensorsError(f"{GRIDS.name} must have one image in each row")
            continue
        places = np.flatnonzero(row[fields.index(texts[-1])] == limits.image_token)
        merged = row[grids].astype(np.int64).prod(1) // limits.image_merge**2
        ends = merged.cumsum()
        if len(places) != merged.sum() or (places[ends - 1] - places[ends - merged] != merged - 1).any():
            raise InvalidTensorsError(
                f"{texts[-1].ids} must have the id {limits.image_token} for each merged patch of {GRIDS.name}, and"
                " those of an image side by side"
            )
        for text in texts[:-1]:
            if (row[fields.index(text)] == limits.image_token).any():
                raise InvalidTensorsError(f"{text.ids} must not have the id {limits.image_token}, which is for images")


def _check_range(name: str, values: Array, low: int, high: int | None) -> None:
    if values.min() < low or (high is not None and values.max() > high):
        limits = f"at least {low}" if high is None else f"in {low}..{high}"
        raise InvalidTensorsError(f"{name} must be {limits}")
