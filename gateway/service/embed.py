"""Texts to embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.catalog import Model
from gateway.errors import InvalidRequest
from gateway.service import rows, tokens
from gateway.service.tokens import Text
from gateway.triton import Triton


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The answer to one call."""

    vectors: NDArray[np.float32]
    """[n, d], in the order of the texts, not normalised."""
    tokens: int
    """What was computed, special tokens included."""


async def embed(
    triton: Triton, model: Model, texts: Sequence[Text], places: Sequence[str], *, truncate: bool
) -> Embeddings:
    """Embed texts.

    Args:
        triton: where the model runs.
        model: an embedding model.
        texts: 1 to 2,048 of them.
        places: what error messages call each text, such as "input[3]".
        truncate: whether to cut texts over the model's limit; otherwise they are an error.

    Raises:
        GatewayError: InvalidRequest, or what `Triton.infer` raises.
    """
    for text, place in zip(texts, places, strict=True):
        if not text:
            raise InvalidRequest(f"{place} is empty", param=place)
    ids = await tokens.encode(model, texts, places, model.max_tokens, truncate=truncate)
    return Embeddings(await rows.run(triton, model, [(row,) for row in ids]), sum(map(len, ids)))
