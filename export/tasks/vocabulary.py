"""The vocabulary of a model's text tower, and checks that its table fits the model."""

from tokenizers import Tokenizer

from export.errors import SourceError
from export.loading.models import Model
from export.manifest import ModelSpec
from export.packing.encoder import first_position
from export.tower import Vocabulary

MOST_TOKENS = 8192
"""A row of a model that takes more is limited to this, unless its table says otherwise."""

LEAST_TOKENS = 8


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
        raise SourceError(f"[{spec.name}] source: its limit of {most} tokens is less than {LEAST_TOKENS}")
    if len(own.get_vocab()) <= len(own.get_added_tokens_decoder()):  # transformers makes up one of special tokens alone
        raise SourceError(f"[{spec.name}] source: holds no vocabulary (tokenizer.json)")
    highest = max(own.get_vocab().values())
    if highest >= config.vocab_size:
        raise SourceError(
            f"[{spec.name}] source: the tokenizer has ids up to {highest}, but the model's vocabulary ends at"
            f" {config.vocab_size - 1}"
        )
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    return Vocabulary(own, config.vocab_size, most, padding)


def check_dimensions(spec: ModelSpec, width: int) -> None:
    """Raise SourceError if a model of this width cannot be cut to the sizes that its table names."""
    if any(size >= width for size in spec.dimensions):
        raise SourceError(f"[{spec.name}] dimensions: {list(spec.dimensions)}, but the model has {width}")
