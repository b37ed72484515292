"""What an export makes of a source: for each Triton model a graph to trace, and what proves and serves it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from tokenizers import Tokenizer
from torch import Tensor

from export.encoder import first_position
from export.errors import SourceError
from export.loading import Model
from export.manifest import ModelSpec
from export.runtime.engine import FIELDS, Field, Row

MOST_TOKENS = 8192
"""A row of a model that takes more is limited to this, unless its table says otherwise."""

LEAST_TOKENS = 8

TEXT, FIRST_LENGTH, PROMPT_LENGTH, QUERY, DOCUMENT, PIXELS = FIELDS


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What turns text into a tower's token ids."""

    tokenizer: Tokenizer
    """Without padding and truncation: the gateway cuts."""
    size: int
    """Ids are below this."""
    max_tokens: int
    padding: int
    """The id to pad with; no token sees it."""


@dataclass(frozen=True, slots=True)
class Role:
    """What a Triton model does."""

    name: str
    output: str


TEXT_EMBEDDING = Role("text-embedding", "embedding")
IMAGE_EMBEDDING = Role("image-embedding", "embedding")
CROSS_ENCODER = Role("cross-encoder", "score")
LATE_INTERACTION = Role("late-interaction", "score")


@dataclass(frozen=True, slots=True)
class Tower:
    """One Triton model to be."""

    name: str
    """Its name in Triton."""
    role: Role
    fields: tuple[Field, ...]
    """What a row of its input holds."""
    head: torch.nn.Module
    """From `Rows`, one for each run of token ids, or from pixels, to FP32 [N, width]."""
    width: int
    reference: Callable[[Row], Tensor]
    """One row's output, [width], by the source's own code in fp32."""
    samples: Callable[[], Sequence[Row]]
    """Rows of many lengths to compare on."""
    vocabulary: Vocabulary | None = None
    packed: bool = False
    """Whether its graph computes real tokens only."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """What the gateway needs to know beyond what all towers have."""


def vocabulary(spec: ModelSpec, tokenizer: Model, model: Model, limit: int | None) -> Vocabulary:
    """The vocabulary of a transformers model.

    Args:
        spec: its table.
        tokenizer: a fast one.
        model: a transformers model, without a head.
        limit: tokens that the source says it takes.

    Raises:
        SourceError: the tokenizer is not a fast one, or more tokens are asked for than the model has positions.
    """
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        raise SourceError(f"[{spec.name}] source: no fast tokenizer (tokenizer.json)")
    own = Tokenizer.from_str(fast.to_str())
    own.no_truncation()
    own.no_padding()
    config = model.config
    positions = (getattr(config, "max_position_embeddings", None) or MOST_TOKENS) - first_position(model)
    most = spec.max_tokens or min(limit or MOST_TOKENS, MOST_TOKENS, positions)
    if most > positions:
        raise SourceError(f"[{spec.name}] max_tokens: {most}, but the model has {positions} positions")
    if most < LEAST_TOKENS:
        raise SourceError(f"[{spec.name}] source: it says that it takes {most} tokens")
    if len(own.get_vocab()) <= len(own.get_added_tokens_decoder()):  # transformers makes up one of special tokens alone
        raise SourceError(f"[{spec.name}] source: holds no vocabulary (tokenizer.json)")
    highest = max(own.get_vocab().values())
    if highest >= config.vocab_size:
        raise SourceError(
            f"[{spec.name}] source: the tokenizer has ids up to {highest}, where the model's vocabulary ends at"
            f" {config.vocab_size - 1}"
        )
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    return Vocabulary(own, config.vocab_size, most, padding)


def check_dimensions(spec: ModelSpec, width: int) -> None:
    """Raise SourceError if a model of this width cannot be cut to the sizes that its table names."""
    if any(size >= width for size in spec.dimensions):
        raise SourceError(f"[{spec.name}] dimensions: {list(spec.dimensions)}, but the model has {width}")
