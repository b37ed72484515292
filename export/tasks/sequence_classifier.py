"""What cross-encoders and classifiers share: the head of a sequence classifier, and rows of one or two texts."""

import copy
import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from export.errors import SourceError
from export.loading.models import Model, loading, model_options
from export.manifest import ModelSpec
from export.packing.heads import POOLINGS, AnyRows
from export.packing.rows import Rows
from export.runtime.contract import Row
from export.tower import Vocabulary


def listed_modules(spec: ModelSpec, folder: Path, what: str, *supported: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the sentence-transformers modules that a folder lists.

    Raises:
        SourceError: they are not one of the supported sequences, or others than the library's own.
    """
    with loading(spec, folder=folder):
        kinds = [str(module["type"]) for module in json.loads((folder / "modules.json").read_text())]
    names = tuple(kind.rpartition(".")[2] for kind in kinds)
    if names not in supported or not all(kind.startswith("sentence_transformers.") for kind in kinds):
        raise SourceError(f"[{spec.name}] source: a {what} of {', '.join(kinds)} is not supported")
    return names


def saved(spec: ModelSpec, folder: Path) -> Model:
    """What sentence-transformers' CrossEncoder loads from a folder, with logits as scores.

    Raises:
        SourceError: it cannot be loaded.
    """
    with loading(spec, folder=folder):
        return CrossEncoder(
            str(folder),
            device="cpu",
            local_files_only=True,
            trust_remote_code=spec.allow_remote_code,
            model_kwargs=model_options(spec),
            activation_fn=torch.nn.Identity(),  # or the one that the folder names would be imported
        )


@dataclass
class _Output(BaseModelOutputWithPoolingAndCrossAttentions):
    """What base models of all kinds give."""

    image_outputs: None = None
    video_outputs: None = None


class Given(torch.nn.Module):
    """Stands in for a base model whose token vectors are known."""

    hidden: torch.FloatTensor

    def __init__(self, pooler: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, *_: object, **__: object) -> _Output:
        hidden = self.hidden
        del self.hidden  # a tracer's tensor could not be copied later
        pooled = self.pooler(hidden) if self.pooler is not None else None
        return _Output(last_hidden_state=hidden, pooler_output=pooled)


class SequenceClassifier(torch.nn.Module):
    """The head of a sequence classifier: token vectors of its base model, [N, L, D] or packed, to logits [N, C]."""

    def __init__(self, model: Model, last: int) -> None:
        """Take the head of a model.

        Args:
            model: a sequence classifier of transformers.
            last: the token that rows end with. If it is also that of padding, decoders look at the token before it.
        """
        super().__init__()
        self.base = Given(_pooler(model.base_model))
        self.model = copy.copy(model)
        self.model._modules = {**model._modules, model.base_model_prefix: self.base}
        self.pooling = self._pooling(model.config.hidden_size, last)
        """The pooling that it begins with; None if it is another one, which takes padded rows."""

    def forward(self, hidden: Tensor, rows: AnyRows) -> Tensor:
        if isinstance(rows, Rows):
            return self._logits(hidden, rows)
        if self.pooling is None:
            return self._logits(rows.layout.pad(hidden[0]), rows.padded())
        return self._of_one(POOLINGS[self.pooling](hidden, rows))

    def _logits(self, hidden: Tensor, rows: Rows) -> Tensor:
        self.base.hidden = cast(torch.FloatTensor, hidden)
        logits: Tensor = self.model(input_ids=rows.ids, attention_mask=rows.valid.to(torch.int64)).logits
        return logits

    def _of_one(self, vectors: Tensor) -> Tensor:
        """The logits of rows of one token each, whose vectors are [N, D]."""
        one = torch.ones_like(vectors[:, 0], dtype=torch.int64)
        return self._logits(vectors[:, None], Rows(one[:, None] * self._token, one, one))

    @property
    def _token(self) -> int:
        """A token that is not padding."""
        return 1 if self.model.config.pad_token_id != 1 else 0

    def _pooling(self, width: int, last: int) -> str | None:
        """The pooling of token vectors after which their number makes no difference."""
        length = torch.tensor((3, 5))
        ids = torch.full((2, 5), self._token)
        ids[0, 3:] = self.model.config.pad_token_id or 0
        ids[torch.arange(2), length - 1] = last
        rows = Rows(ids, length, length)
        hidden = torch.randn(2, 5, width, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = self._logits(hidden, rows)
            for name in ("cls", "lasttoken", "mean"):
                if torch.allclose(self._of_one(POOLINGS[name](hidden, rows)), expected, rtol=1e-4, atol=1e-5):
                    return name
        return None


def _pooler(base: Model) -> torch.nn.Module | None:
    """The pooler of a base model, [N, L, D] to [N, D]; None if it has none."""
    pooler: torch.nn.Module | None = getattr(base, "pooler", None)
    if isinstance(pooler, torch.nn.Linear):  # ALBERT's
        return torch.nn.Sequential(_FirstToken(), pooler, base.pooler_activation)
    return pooler


class _FirstToken(torch.nn.Module):
    def forward(self, hidden: Tensor) -> Tensor:
        return hidden[:, 0]


def takes_segments(spec: ModelSpec, model: Model, type_ids: Tensor | None) -> bool:
    """Whether a model gets token types that mark the second text of a pair.

    Args:
        spec: its table.
        model: a transformers model, without a head.
        type_ids: the token types of a pair, as the model's library passes them; None if it passes none.

    Raises:
        SourceError: they are not 0 up to some token, and 1 behind it.
    """
    takes = "token_type_ids" in inspect.signature(model.forward).parameters
    if type_ids is None or not takes or (getattr(model.config, "type_vocab_size", 0) or 0) < 2:
        return False
    if not torch.equal(type_ids, type_ids.sort().values) or int(type_ids.max()) > 1:
        raise SourceError(f"[{spec.name}] source: its tokenizer uses unusual segment ids: {type_ids.tolist()}")
    return bool(type_ids.any())


@dataclass(frozen=True, slots=True)
class TextRows:
    """Texts and pairs of texts as rows of a model, as the gateway makes them too."""

    words: Vocabulary
    segments: bool
    """Whether a row has the length of its first segment."""

    def text(self, text: str, limit: int) -> Row:
        """One text, cut to `limit` tokens."""
        encoding = self.words.tokenizer.encode(text)
        return self._row(encoding.ids, encoding.special_tokens_mask[::-1].index(0), len(encoding.ids), limit)

    def pair(self, first: str, second: str, limit: int) -> Row:
        """A pair of at most `limit` tokens: it is the second text that is cut."""
        pair = self.words.tokenizer.encode(first, second)
        sequences = pair.sequence_ids  # None for special tokens
        behind = sequences[::-1].index(1) if 1 in sequences else 0
        return self._row(pair.ids, behind, pair.type_ids.count(0), limit)

    def _row(self, ids: list[int], behind: int, first: int, limit: int) -> Row:
        """A row of ids, without what is over the limit before its last `behind` ids."""
        kept = ids if len(ids) <= limit else [*ids[: limit - behind], *ids[len(ids) - behind :]]
        return (np.array(kept, np.int64), np.array(min(first, limit), np.int32))[: 1 + self.segments]
