"""Texts to embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.catalog import Model
from gateway.errors import InvalidRequest
from gateway.service import rows
from gateway.triton import Triton

Text = str | list[int]
"""Text, or token ids of the model's own vocabulary, special tokens included, taken as they are."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The answer to one call."""

    vectors: NDArray[np.float32]
    """[n, d], in the order of the texts, not normalised."""
    tokens: int
    """What was computed, special tokens included."""


async def embed(triton: Triton, model: Model, texts: Sequence[Text], *, truncate: bool, param: str) -> Embeddings:
    """Embed texts.

    Args:
        triton: where the model runs.
        model: an embedding model.
        texts: 1 to 2,048 of them.
        truncate: whether to cut texts over the model's limit; otherwise they are an error.
        param: the field that holds the texts, for error messages.

    Raises:
        GatewayError: InvalidRequest, or what `Triton.infer` raises.
    """
    rows.check_size(len(texts), param)
    encoded = iter(await model.tokenizer.encode([text for text in texts if isinstance(text, str)]))
    ids = []
    for i, text in enumerate(texts):
        place = f"{param}[{i}]"
        if not text:
            raise InvalidRequest(f"{place} is empty", param=place)
        if not isinstance(text, str):
            _check_vocabulary(model, text, place)
        ids.append(_fit(model, next(encoded) if isinstance(text, str) else text, truncate=truncate, param=place))
    tokens = sum(map(len, ids))
    rows.check_tokens(tokens, param)
    return Embeddings(await rows.run(triton, model, [(row,) for row in ids]), tokens)


def _fit(model: Model, ids: list[int], *, truncate: bool, param: str) -> list[int]:
    if len(ids) > model.max_tokens and not truncate:
        raise InvalidRequest(
            f"{param} has {len(ids)} tokens; model {model.name!r} takes {model.max_tokens}"
            ' (send "truncate": true to have it cut)',
            param=param,
        )
    return model.tokenizer.cut(ids, model.max_tokens)


def _check_vocabulary(model: Model, ids: Sequence[int], param: str) -> None:
    if min(ids) < 0 or max(ids) >= model.vocabulary_size:
        raise InvalidRequest(
            f"{param} holds a token id outside 0..{model.vocabulary_size - 1}, the vocabulary of model {model.name!r};"
            " token ids of another model's tokenizer do not work here, send text instead",
            param=param,
        )
