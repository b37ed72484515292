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
    """What was computed, special tokens and the model's prompt included."""


async def embed(
    triton: Triton, model: Model, texts: Sequence[Text], places: Sequence[str], *, truncate: bool
) -> Embeddings:
    """Embed texts.

    Args:
        triton: where the model runs.
        model: an embedding model.
        texts: 1 to 2,048 of them; the model's default prompt is put in front of those that are not token ids.
        places: what error messages call each text, such as "input[3]".
        truncate: whether to cut texts over the model's limit; otherwise they are an error.

    Raises:
        GatewayError: InvalidRequest, or what `Triton.infer` raises.
    """
    for text, place in zip(texts, places, strict=True):
        if not text:
            raise InvalidRequest(f"{place} is empty", param=place)
    prompted = [model.default_prompt + text if isinstance(text, str) else text for text in texts]
    ids = await tokens.encode(model, prompted, places, model.max_tokens, truncate=truncate)
    return Embeddings(await rows.run(triton, model, [(row,) for row in ids]), sum(map(len, ids)))
