"""A tower: one Triton model of a source, with the graph to trace, its reference and the files served with it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from tokenizers import Tokenizer
from torch import Tensor

from export.runtime.contract import Field, Output, Parameters, Role, Row
from export.runtime.inputs import Expansion
from export.runtime.vision import Vision


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokenizer of a tower."""

    tokenizer: Tokenizer
    """The tokenizer without padding and truncation, since the gateway truncates."""
    size: int
    """Ids are below this."""
    max_tokens: int
    padding: int
    """The id to pad with; no token sees it."""


@dataclass(frozen=True, slots=True)
class Tower:
    """One Triton model before it is exported."""

    name: str
    """Its name in Triton."""
    role: Role
    fields: tuple[Field, ...]
    """The fields of a row of its input."""
    outputs: tuple[Output, ...]
    """What it computes, the main output first."""
    head: torch.nn.Module
    """Computes the outputs by name, from `Rows`, one for each text of a row, or from pixels, or `PackedImages`.

    Values of rows are [N, ...]. Values of tokens are in the form of the rows, [N, L, ...] or [1, T, ...], and 0 where
    there is no token.
    """
    reference: Callable[[Row], Mapping[str, Tensor]]
    """One row's outputs by name, by the source's own code in fp32: a value, or one for each token, [L, ...]."""
    samples: Callable[[], Sequence[Row]]
    """Rows of many lengths to compare on."""
    vocabulary: Vocabulary | None = None
    packed: bool = False
    """Whether its graph computes real tokens only, and no padding."""
    expansion: Expansion | None = None
    """What a host fills rows up with. A graph does so itself."""
    vision: Vision | None = None
    """The images of its rows, if these are of any number and size: its fields have PATCHES and GRIDS."""
    parameters: Parameters = field(default_factory=Parameters)
    """The gateway's parameters that only some towers have."""

    @property
    def width(self) -> int:
        """The dimensions of the main output."""
        return self.outputs[0].shape[-1]
