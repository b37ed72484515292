"""A text tower: what sentence-transformers reads out of a source folder."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer

from export.errors import SourceError
from export.manifest import ModelSpec


@dataclass(frozen=True, slots=True)
class TextTower:
    """A transformers encoder in fp32, and what is needed to serve it."""

    name: str
    """Of its table in the manifest."""
    reference: SentenceTransformer
    """The whole pipeline, which verification holds the graph against."""
    model: torch.nn.Module
    tokenizer: Tokenizer
    """Without padding and truncation: the gateway cuts."""
    pooling: str
    """As sentence-transformers names it: "mean", "cls", ..."""
    width: int
    """Dimensions of a token vector."""
    max_tokens: int
    vocabulary_size: int


def load(spec: ModelSpec, folder: Path) -> TextTower:
    """Load the tower of a sentence-transformers folder; a plain transformers folder gets mean pooling.

    Raises:
        SourceError: the folder cannot be loaded, it has a default prompt, a module after the pooling that is not a
            plain normalisation, or no fast tokenizer, or more tokens or dimensions are asked for than the model has.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reference = SentenceTransformer(
                str(folder),
                device="cpu",
                local_files_only=True,
                model_kwargs={"attn_implementation": "sdpa", "dtype": torch.float32, "use_safetensors": True},
            )
    except (OSError, ValueError, KeyError) as exc:  # what transformers raises for configs and weights it cannot read
        raise SourceError(f"[{spec.name}] source: cannot be loaded: {exc}") from exc
    if reference.default_prompt_name is not None:
        raise SourceError(
            f"[{spec.name}] source: a default prompt ({reference.default_prompt_name!r}) is not supported yet"
        )
    transformer, pooling, *rest = reference
    if not isinstance(transformer, Transformer) or not isinstance(pooling, Pooling):
        raise SourceError(f"[{spec.name}] source: not a transformer followed by a pooling, but {reference}")
    if not all(isinstance(module, Normalize) for module in rest):
        raise SourceError(f"[{spec.name}] source: modules after the pooling are not supported: {rest}")
    model = transformer.auto_model.eval()
    positions = getattr(model.config, "max_position_embeddings", None)
    max_tokens = spec.max_tokens or reference.max_seq_length
    if not max_tokens or (positions and max_tokens > positions):
        raise SourceError(f"[{spec.name}] max_tokens: {max_tokens}, but the model has {positions} positions")
    width = model.config.hidden_size
    if any(size >= width for size in spec.dimensions):
        raise SourceError(f"[{spec.name}] dimensions: {list(spec.dimensions)}, but the model has {width}")
    return TextTower(
        name=spec.name,
        reference=reference,
        model=model,
        tokenizer=_tokenizer(spec, reference),
        pooling=pooling.get_config_dict()["pooling_mode"],
        width=width,
        max_tokens=max_tokens,
        vocabulary_size=model.config.vocab_size,
    )


def _tokenizer(spec: ModelSpec, reference: SentenceTransformer) -> Tokenizer:
    fast = getattr(reference.tokenizer, "backend_tokenizer", None)
    if fast is None:
        raise SourceError(f"[{spec.name}] source: no fast tokenizer (tokenizer.json)")
    tokenizer = Tokenizer.from_str(fast.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
